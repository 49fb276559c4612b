"""Waiting in tests: never for a time, always for something, and not for ever."""

import time


def until(condition, what, seconds=120.0, step=0.02):
    """Polls until condition() is true, and returns what it is then; raises after so many seconds."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds:.0f} s for {what}")
        time.sleep(step)

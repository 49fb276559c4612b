#!/usr/bin/python3
"""kill -9 under load: kill_rounds.py --binary build/holdfast [--rounds 100] [--due] [--seed N] [--keep]

Real clients send, consume, delay and decide while the server is killed and started again, round after round; promises.py
says what they promise each other and compares. With --due the kill comes when a thousand messages fall due."""
import os
import signal
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from holdfast import Holdfast  # noqa: E402
from machine import Machine, options  # noqa: E402
from promises import KILL, epochs  # noqa: E402


class Killed(Machine):
    def round(self, number):
        self.now_and_then_stop(f"round {number}")
        table = epochs(self.server.listen, "plain")
        self.load.until_the_moment(self.random)
        self.server.stop(signal.SIGKILL)
        self.lives.crashed(KILL, table)
        self.tally[KILL] += 1
        self.start_again(f"round {number}")


def main():
    parser = options(__doc__, rounds=100)
    parser.add_argument("--due", action="store_true", help="kill when many messages fall due")
    o = parser.parse_args()
    folder = tempfile.mkdtemp(prefix="holdfast-kill-")
    print(f"seed {o.seed}, folder {folder}", flush=True)
    machine = Killed(Holdfast(o.binary, folder, "--segment.bytes=1MiB"), o.seed, o.due)
    return 1 if machine.survive(o.rounds, folder, o.keep) else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # through the cleaning up
    sys.exit(main())

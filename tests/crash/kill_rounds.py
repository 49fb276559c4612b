#!/usr/bin/python3
"""kill -9 under load: kill_rounds.py --binary build/holdfast [--rounds 100] [--due] [--seed N] [--keep]

Real clients send, consume, delay and decide while the server is killed and started again, round after round; promises.py
says what they promise each other and compares. With --due the kill comes when a thousand messages fall due."""
import argparse
import os
import random
import signal
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from alone import clear_away  # noqa: E402
from holdfast import Holdfast  # noqa: E402
from promises import KILL, Lives, Load, Verdict, create_topics, epochs  # noqa: E402


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--binary", required=True)
    options.add_argument("--rounds", type=int, default=100)
    options.add_argument("--due", action="store_true", help="kill when many messages fall due")
    options.add_argument("--seed", type=int, default=int(time.time()))
    options.add_argument("--keep", action="store_true", help="leave the folder for a look")
    o = options.parse_args()
    folder = tempfile.mkdtemp(prefix="holdfast-kill-")
    rng, verdict, lives = random.Random(o.seed), Verdict(), Lives()
    print(f"seed {o.seed}, folder {folder}", flush=True)
    server = Holdfast(o.binary, folder, "--segment.bytes=1MiB")
    load, slowest = None, 0
    try:
        server.start()
        server.listen = server.kafka  # the same over restarts
        create_topics(server.listen)
        load = Load(server.listen, o.seed, o.due)
        load.start()
        for number in range(o.rounds):
            table = epochs(server.listen, "plain")
            load.until_the_moment(rng)
            server.stop(signal.SIGKILL)
            lives.crashed(KILL, table)
            before = dict(load.committed)
            began = time.monotonic()
            server.start()
            slowest = max(slowest, time.monotonic() - began)
            verdict.offsets(load, server.listen, before, f"round {number}")
        load.end(verdict)
        verdict.everything(load, server.listen, lives, o.rounds)
        verdict.say(server.stop() == 0, "the clean stop failed")
        print(f"{o.rounds} rounds, slowest start {slowest:.2f} s, {len(verdict.wrong)} wrong")
    finally:
        if load:
            load.stop.set()
        server.stop(signal.SIGKILL)
        clear_away(folder, o.keep or verdict.wrong)
    return 1 if verdict.wrong else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # through the cleaning up
    sys.exit(main())

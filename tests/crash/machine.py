"""A server that is struck again and again while real clients load it; promises.py says what they check. What strikes it, and
on what it stands, is a subclass's: prepare(), round(number), and put_away() behind it all."""
import argparse
import collections
import random
import signal
import time

from alone import clear_away
from promises import Lives, Load, Verdict, create_topics
from tables import SERVER


def options(doc, rounds):
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", required=True)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--keep", action="store_true", help="leave the folder for a look")
    return parser


class Machine:
    def __init__(self, server, seed, moments=False):
        self.server, self.seed, self.moments, self.random = server, seed, moments, random.Random(seed)
        self.server.flags.append(SERVER)
        self.lives, self.verdict, self.tally, self.slowest, self.load = Lives(), Verdict(), collections.Counter(), 0, None

    def prepare(self):
        """Before the first start."""

    def put_away(self):
        """After the last end, however it came."""

    def start_again(self, what):
        before, began = dict(self.load.committed), time.monotonic()
        self.server.start()
        self.slowest = max(self.slowest, time.monotonic() - began)
        self.verdict.offsets(self.load, self.server.listen, before, what)
        self.load.tables.verify(self.verdict, self.server.listen, what)

    def now_and_then_stop(self, what):
        """A clean stop between the crashes: what it left in closed segments is compacted from the next start on, and the next
        crash comes into that."""
        if self.random.random() < 0.3:
            self.verdict.say(self.server.stop() == 0, f"{what}: the clean stop failed")
            self.tally["stop"] += 1
            self.start_again(f"{what}, stopped")

    def run(self, rounds):
        self.prepare()
        self.server.start()
        self.server.listen = self.server.kafka  # the same over restarts
        create_topics(self.server.listen)
        self.load = Load(self.server.listen, self.seed, self.moments)
        self.load.start()
        for number in range(rounds):
            self.round(number)
        self.load.end(self.verdict)
        self.verdict.everything(self.load, self.server.listen, self.lives, rounds)
        self.verdict.say(self.server.stop() == 0, "the clean stop failed")

    def survive(self, rounds, folder, keep):
        """Runs the rounds, tells how they went, and clears the folder away. How many promises were broken."""
        wrong = self.verdict.wrong
        try:
            self.run(rounds)
            print(f"seed {self.seed}: {rounds} rounds: {', '.join(f'{n} {what}' for what, n in sorted(self.tally.items()))}; "
                  f"slowest start {self.slowest:.2f} s, {len(wrong)} wrong", flush=True)
        finally:
            if self.load:
                self.load.stop.set()
            self.server.stop(signal.SIGKILL)
            self.put_away()
            clear_away(folder, keep or wrong)
        return len(wrong)

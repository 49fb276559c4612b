#!/usr/bin/python3
"""Failed syncs that lose data, under load: failed_syncs.py --binary build/holdfast --disk build/tests/disk/forgetful_disk
[--rounds 20] [--seed N] [--keep]

The data folder lies on a disk of our own (forgetful_disk.c). In each round a sync fails, as it does on ext4 and XFS: the bytes
are gone from the disk, the kernel's pages show them still, and the next sync would succeed. The server has to stop at once,
say why, and find at its next start everything that it answered; in some rounds the power goes in between, or goes
without a failed sync. Real clients load the server all the time; tests/crash/promises.py says what they check. A failed sync
counts as loss of power for acks=1.

Ends with 77 (skipped), saying why, where FUSE cannot mount."""
import argparse
import collections
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "support"), os.path.join(HERE, "..", "crash")]
from alone import alone, clear_away  # noqa: E402
from holdfast import Holdfast  # noqa: E402
from promises import KILL, POWER, Lives, Load, Verdict, create_topics, epochs  # noqa: E402

SKIPPED = 77
WAIT_S = 60


class Disk:
    def __init__(self, program, folder):
        self.program, self.behind, self.at = program, os.path.join(folder, "behind"), os.path.join(folder, "mount")
        self.errors = os.path.join(folder, "disk.log")
        os.makedirs(self.behind)
        os.makedirs(self.at)
        self.process = None

    def mount(self):
        with open(self.errors, "a") as errors:
            self.process = subprocess.Popen([self.program, self.behind, self.at], stderr=errors)
        deadline = time.monotonic() + WAIT_S
        while not os.path.ismount(self.at):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.unmount()
                with open(self.errors) as f:
                    raise OSError(f.read().strip() or "the disk was not mounted")
            time.sleep(0.005)

    def unmount(self):
        """What was not synced is lost: the process dies before the kernel lets go."""
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None
        subprocess.run(["umount", "-l", self.at] if os.geteuid() == 0 else ["fusermount3", "-u", "-z", self.at],
                       stderr=subprocess.DEVNULL)

    def lose_power(self):
        self.unmount()
        self.mount()

    def fail(self, suffix):
        with open(os.path.join(self.at, ".control"), "w") as f:
            f.write(f"fail {suffix}\n")

    def counts(self):
        with open(os.path.join(self.at, ".control")) as f:
            words = f.read().split()
        return {name: int(n) for name, n in zip(words[::2], words[1::2])}


class Machine:
    def __init__(self, o, folder):
        self.random, self.verdict, self.lives = random.Random(o.seed), Verdict(), Lives()
        self.tally, self.slowest = collections.Counter(), 0
        self.disk = Disk(o.disk, folder)
        self.disk.mount()
        self.server = Holdfast(o.binary, folder, "--segment.bytes=1MiB")
        self.server.data = os.path.join(self.disk.at, "data")
        self.server.start()
        self.server.listen = self.server.kafka
        create_topics(self.server.listen)
        self.load = Load(self.server.listen, o.seed)

    def start(self, what):
        before, began = dict(self.load.committed), time.monotonic()
        self.server.start()
        self.slowest = max(self.slowest, time.monotonic() - began)
        self.verdict.offsets(self.load, self.server.listen, before, what)

    def fail_a_sync(self, what):
        """The server ends by itself, with status 1 and a line that says why."""
        suffix = self.random.choice([".journal", ".log", ".index", ""])
        logged = len(self.server.log())
        self.disk.fail(suffix)
        deadline = time.monotonic() + WAIT_S
        while self.server.alive() and time.monotonic() < deadline:
            time.sleep(0.005)
        self.verdict.say(not self.server.alive(), f"{what}: the server went on after a failed sync of *{suffix}")
        status, said = self.server.stop(signal.SIGKILL), self.server.log()[logged:]
        self.verdict.say(status == 1, f"{what}: exit status {status}")
        self.verdict.say("log_failed" in said, f"{what}: no line says why", [said])
        self.tally[f"failed sync of *{suffix}"] += 1

    def round(self, what):
        table = epochs(self.server.listen, "plain")
        self.load.until_the_moment(self.random)
        draw = self.random.random()
        if draw < 0.75:
            self.fail_a_sync(what)
        else:
            self.server.stop(signal.SIGKILL)
        how = KILL if draw >= 0.95 else POWER
        if 0.5 <= draw < 0.95:
            self.disk.lose_power()
            self.tally["power cut"] += 1
        self.lives.crashed(how, table)
        self.start(what)

    def run(self, rounds):
        self.load.start()
        for number in range(rounds):
            self.round(f"round {number}")
        self.load.end(self.verdict)
        self.verdict.everything(self.load, self.server.listen, self.lives, rounds)
        self.verdict.say(self.server.stop() == 0, "the clean stop failed")

    def close(self):
        self.load.stop.set()
        self.server.stop(signal.SIGKILL)
        self.disk.unmount()


def forgets(disk):
    """The disk itself: a failed sync loses what was written, shows it still, and the next one succeeds."""
    path = os.path.join(disk.at, "probe")
    with open(path, "wb", buffering=0) as f:
        f.write(b"old!" * 2048)
        os.fsync(f.fileno())
        f.seek(0)
        f.write(b"new!" * 2048)
        disk.fail("probe")
        try:
            os.fsync(f.fileno())
            return "a sync that should fail succeeded"
        except OSError:
            os.fsync(f.fileno())
    with open(path, "rb") as f:
        if f.read() != b"new!" * 2048:
            return "what a failed sync lost is not readable"
    disk.lose_power()
    with open(path, "rb") as f:
        return None if f.read() == b"old!" * 2048 else "what a failed sync lost came back"


def why_not(program):
    """What is missing on this machine; None if nothing is."""
    folder = tempfile.mkdtemp(prefix="holdfast-disk-")
    disk = Disk(program, folder)
    try:
        disk.mount()
    except OSError as error:
        return f"FUSE does not mount here: {error}"
    else:
        wrong = forgets(disk)
        if wrong:
            raise RuntimeError(f"the disk is not what it should be: {wrong}")
        return None
    finally:
        disk.unmount()
        shutil.rmtree(folder)


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--binary", required=True)
    options.add_argument("--disk", required=True)
    options.add_argument("--rounds", type=int, default=20)
    options.add_argument("--seed", type=int, default=int(time.time()))
    options.add_argument("--keep", action="store_true", help="leave the folder for a look")
    o = options.parse_args()
    missing = why_not(o.disk)
    if missing:
        print(f"skipped: {missing}")
        return SKIPPED
    folder = tempfile.mkdtemp(prefix="holdfast-disk-")
    print(f"seed {o.seed}, folder {folder}", flush=True)
    machine, wrong = None, []
    try:
        machine = Machine(o, folder)
        machine.run(o.rounds)
        wrong = machine.verdict.wrong
        print(f"{o.rounds} rounds: {', '.join(f'{n} {what}' for what, n in sorted(machine.tally.items()))}; slowest start "
              f"{machine.slowest:.2f} s, {len(wrong)} wrong")
    finally:
        if machine:
            machine.close()
        clear_away(folder, o.keep or wrong)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(alone(main))

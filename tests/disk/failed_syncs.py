#!/usr/bin/python3
"""Failed syncs that lose data, under load: failed_syncs.py --binary build/holdfast --disk build/tests/disk/forgetful_disk
[--rounds 20] [--seed N] [--keep]

The data folder lies on a disk of our own (forgetful_disk.c). In each round a sync fails, as it does on ext4 and XFS: the bytes
are gone from the disk, the kernel's pages show them still, and the next sync would succeed. The server has to stop at once,
say why, and find at its next start everything that it answered; in some rounds the power goes in between, or goes
without a failed sync. Real clients load the server all the time; tests/crash/promises.py says what they check. A failed sync
counts as loss of power for acks=1.

Ends with 77 (skipped), saying why, where FUSE cannot mount."""
import os
import shutil
import signal
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "support"), os.path.join(HERE, "..", "crash")]
from alone import alone  # noqa: E402
from holdfast import Holdfast  # noqa: E402
from machine import Machine, options  # noqa: E402
from promises import KILL, POWER, epochs  # noqa: E402
from until import until  # noqa: E402

SKIPPED = 77


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
        until(lambda: os.path.ismount(self.at) or self.process.poll() is not None, "the mount")
        if self.process.poll() is not None:
            self.unmount()
            with open(self.errors) as f:
                raise OSError(f.read().strip() or "the disk was not mounted")

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


class OnAForgetfulDisk(Machine):
    def __init__(self, o, folder):
        super().__init__(Holdfast(o.binary, folder, "--segment.bytes=1MiB"), o.seed)
        self.disk = Disk(o.disk, folder)
        self.server.data = os.path.join(self.disk.at, "data")

    def prepare(self):
        self.disk.mount()

    def put_away(self):
        self.disk.unmount()

    def fail_a_sync(self, what):
        """The server ends by itself, with status 1 and a line that says why."""
        suffix = self.random.choice([".journal", ".log", ".index", ""])
        logged, failed = len(self.server.log()), self.disk.counts()["failed"]
        self.disk.fail(suffix)
        until(lambda: not self.server.alive(), f"the end, {what}: the server goes on after a failed sync of *{suffix}")
        status, said = self.server.stop(signal.SIGKILL), self.server.log()[logged:]
        self.verdict.say(status == 1, f"{what}: exit status {status}")
        self.verdict.say(self.disk.counts()["failed"] == failed + 1, f"{what}: it did not end because a sync failed")
        self.verdict.say("log_failed" in said, f"{what}: no line says why", [said])
        self.tally[f"failed sync of *{suffix}"] += 1

    def round(self, number):
        what = f"round {number}"
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
        self.start_again(what)


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
    parser = options(__doc__, rounds=20)
    parser.add_argument("--disk", required=True)
    o = parser.parse_args()
    missing = why_not(o.disk)
    if missing:
        print(f"skipped: {missing}")
        return SKIPPED
    folder = tempfile.mkdtemp(prefix="holdfast-disk-")
    print(f"seed {o.seed}, folder {folder}", flush=True)
    return 1 if OnAForgetfulDisk(o, folder).survive(o.rounds, folder, o.keep) else 0


if __name__ == "__main__":
    sys.exit(alone(main))

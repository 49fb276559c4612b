#!/usr/bin/python3
"""Real power cuts, as root: power_cuts.py --binary build/holdfast --fs ext4|xfs [--rounds 25] [--due] [--seed N] [--keep]

The data folder lies on a file system of its own in a loop-mounted image. A round ends with the ioctl FS_IOC_SHUTDOWN, after
which the file system writes nothing more: what was not synced is lost, as with the power. Then the server is killed, the
image unmounted and mounted again (the file system replays its journal), and the server starts on what there is.

    load ... ─► SIGSTOP, all threads seen stopped ─► shutdown ─► SIGKILL ─► umount, mount ─► start ─► look at offsets
                                                                          │
             kill -9 ─► start ─► read (the load goes on) ─► shutdown … ───┘  one round in five; one in ten is only killed

The server is stopped first so that every answer it gave counts: a sync that races the shutdown may return 0 for what is not
on the image. The shutdown is told to leave the file system's journal as it is (most rounds), or to write it out before
(the others): then sizes and names are there whose bytes are not.

Meanwhile another process writes back ranges of files, or whole files, at random: pages reach the image early and out of
order, as the kernel's own write-back would do it. It holds no file while the image is being unmounted.

Real clients load the server all the time; promises.py says what they check. Every --episode rounds the clients end, all is
compared, and a new image is made. With --due the power goes when a thousand messages fall due.

Ends with 77 (skipped), saying why, where there is no root or no loop device."""
import collections
import ctypes
import fcntl
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from alone import alone  # noqa: E402
from holdfast import Holdfast  # noqa: E402
from machine import Machine, options  # noqa: E402
from promises import KILL, POWER, epochs  # noqa: E402
from until import until  # noqa: E402

SKIPPED = 77
FS_IOC_SHUTDOWN = 0x8004587D      # _IOR('X', 125, uint32_t)
LOGFLUSH, NOLOGFLUSH = 1, 2       # the file system's journal is written out first, or left as it is
SYNC_FILE_RANGE_ALL = 7           # wait before, write, wait after
MAKE = {"ext4": ["mkfs.ext4", "-q", "-F"], "xfs": ["mkfs.xfs", "-q", "-f"]}


class Image:
    """A file system that can lose its power."""

    def __init__(self, kind, folder, megabytes):
        self.kind, self.file, self.mounted = kind, os.path.join(folder, "image"), False
        self.at = os.path.join(folder, "mount")
        self.size = megabytes << 20

    def make(self):
        os.makedirs(self.at, exist_ok=True)
        with open(self.file, "w") as f:
            f.truncate(self.size)
        self.run(MAKE[self.kind] + [self.file])

    def run(self, command):
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stdout.strip()}")

    def mount(self):
        self.run(["mount", "-t", self.kind, "-o", "loop", self.file, self.at])
        self.mounted = True

    def unmount(self):
        if self.mounted:
            self.run(["umount", self.at])
        self.mounted = False

    def cut(self, how):
        fd = os.open(self.at, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(fd, FS_IOC_SHUTDOWN, struct.pack("I", how))
        finally:
            os.close(fd)


class WriteBack:
    """A child process that syncs random ranges of random files, until told to pause."""

    def __init__(self, folder, seed):
        self.folder, self.requests = folder, os.pipe()
        self.answers = os.pipe()
        self.child = os.fork()
        if self.child == 0:
            try:
                self.run(random.Random(seed))
            finally:
                os._exit(0)

    def ask(self, what):
        os.write(self.requests[1], what)
        os.read(self.answers[0], 1)

    def pause(self):
        self.ask(b"p")

    def resume(self):
        self.ask(b"r")

    def end(self):
        os.kill(self.child, signal.SIGKILL)
        os.waitpid(self.child, 0)
        for fd in self.requests + self.answers:
            os.close(fd)

    def run(self, rng):
        os.set_blocking(self.requests[0], False)
        libc = ctypes.CDLL(None, use_errno=True)
        libc.sync_file_range.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
        files, looked, paused = [], 0.0, True
        while True:
            try:
                paused = os.read(self.requests[0], 1) == b"p"
                os.write(self.answers[1], b".")
            except BlockingIOError:
                pass
            time.sleep(0.02 if paused else rng.uniform(0, 0.01))
            if paused:
                continue
            if time.monotonic() - looked > 0.2:
                files = [os.path.join(d, f) for d, _, names in os.walk(self.folder) for f in names]
                looked = time.monotonic()
            if files:
                self.write_back(libc, rng, rng.choice(files))

    @staticmethod
    def write_back(libc, rng, path):
        try:
            fd = os.open(path, os.O_RDONLY)
        except OSError:
            return  # it was removed, or renamed
        try:
            size = os.fstat(fd).st_size
            if rng.random() < 0.1:
                os.fdatasync(fd)
            elif size > 0:
                libc.sync_file_range(fd, rng.randrange(size) & ~4095, 4096 << rng.randrange(8), SYNC_FILE_RANGE_ALL)
        except OSError:
            pass  # the power is gone
        finally:
            os.close(fd)


def is_stopped(pid):
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/stat") as f:
            if f.read().rsplit(")", 1)[1].split()[0] not in "Tt":
                return False
    return True


class OnAnImage(Machine):
    """The server on its image, the clients beside it, for one episode."""

    def __init__(self, o, folder, seed):
        super().__init__(Holdfast(o.binary, folder, "--segment.bytes=1MiB"), seed, o.due)
        self.image, self.write_back = Image(o.fs, folder, o.megabytes), None
        self.server.data = os.path.join(self.image.at, "data")

    def prepare(self):
        self.image.make()
        self.image.mount()
        self.write_back = WriteBack(self.server.data, self.seed)
        self.write_back.resume()

    def put_away(self):
        if self.write_back:
            self.write_back.end()
        self.image.unmount()

    def kill(self, what):
        table = epochs(self.server.listen, "plain")
        self.load.until_the_moment(self.random)
        self.server.stop(signal.SIGKILL)
        self.lives.crashed(KILL, table)
        self.start_again(what)
        self.tally[KILL] += 1

    def lose_power(self, what):
        table = epochs(self.server.listen, "plain")
        self.load.until_the_moment(self.random)
        os.kill(self.server.pid, signal.SIGSTOP)
        until(lambda: is_stopped(self.server.pid), "the server to stand still", step=0.001)
        self.image.cut(LOGFLUSH if self.random.random() < 0.25 else NOLOGFLUSH)
        self.server.stop(signal.SIGKILL)
        self.lives.crashed(POWER, table)
        self.write_back.pause()
        self.image.unmount()
        self.image.mount()
        self.write_back.resume()
        self.start_again(what)
        self.tally[POWER] += 1

    def round(self, number):
        self.now_and_then_stop(f"round {number}")
        draw = self.random.random()
        if draw < 0.3:
            self.kill(f"round {number}, killed")
        if draw >= 0.1:
            self.lose_power(f"round {number}, power cut{' after a kill' if draw < 0.3 else ''}")


def why_not(fs, folder):
    """What is missing for power cuts on this machine; None if nothing is."""
    if os.geteuid() != 0:
        return "needs root: it mounts images"
    if not shutil.which(MAKE[fs][0]):
        return f"needs {MAKE[fs][0]}"
    try:
        image = Image(fs, folder, 512)
        image.make()
        image.mount()
        try:
            image.cut(NOLOGFLUSH)
        finally:
            image.unmount()
    except (OSError, RuntimeError) as error:
        return f"no loop-mounted {fs} image here that can be shut down: {error}"
    return None


def main():
    parser = options(__doc__, rounds=25)
    parser.add_argument("--fs", choices=sorted(MAKE), default="ext4")
    parser.add_argument("--episode", type=int, default=25, help="rounds until all is compared and an image is made anew")
    parser.add_argument("--due", action="store_true", help="cut the power when many messages fall due")
    parser.add_argument("--images", help="folder for the images; a tmpfs is fastest (default: the temporary folder)")
    parser.add_argument("--megabytes", type=int, default=1024, help="size of an image, which is sparse")
    o = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="holdfast-power-", dir=o.images) as folder:
        missing = why_not(o.fs, folder)
    if missing:
        print(f"skipped: {missing}")
        return SKIPPED
    began, wrong, tally = time.monotonic(), 0, collections.Counter()
    print(f"first seed {o.seed}", flush=True)
    for k in range(0, o.rounds, o.episode):
        folder = tempfile.mkdtemp(prefix=f"holdfast-power-{o.fs}-", dir=o.images)
        machine = OnAnImage(o, folder, o.seed + k // o.episode)
        wrong += machine.survive(min(o.episode, o.rounds - k), folder, o.keep)
        tally += machine.tally
    print(f"{o.rounds} rounds on {o.fs} in {time.monotonic() - began:.0f} s: {tally[POWER]} power cuts, {tally[KILL]} kills, "
          f"{wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(alone(main))

"""For tests that mount: namespaces of their own, so that nothing stays mounted or running however they end.

    if __name__ == "__main__":
        sys.exit(alone(main))

alone() starts the program once more, as the first process of new mount and process namespaces. What it mounts nobody else sees;
when it ends, also by SIGKILL (as ctest ends what takes too long), the kernel ends all that it started and lets go of all
that it mounted, loop devices too. Who is not root becomes it in a user namespace, which may mount a tmpfs, and FUSE where
/dev/fuse is for everybody. Where namespaces are not allowed the program runs as it is, and only its own cleaning up helps.

With `loopback` it gets a network of its own, too: nothing but 127.0.0.1, where both ends of every connection use cubic, also those
of programs that leave it to the kernel, whose default may be one that halves a loopback's rate. For comparisons.

SIGTERM, to the program's process group, ends it as SIGINT does: through its `finally`."""
import os
import shutil
import signal
import subprocess
import sys

INSIDE = "HF_TEST_ALONE"
LOOPBACK = """ip link set lo up && ip route change local 127.0.0.0/8 dev lo table local congctl cubic &&
ip route change local 127.0.0.1 dev lo table local congctl cubic && exec "$@\""""


def command(loopback):
    become_root = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    return ["unshare", *become_root, "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "slave",
            *(["--net", "sh", "-c", LOOPBACK, "sh"] if loopback else [])]


def allowed(loopback):
    try:
        return subprocess.run([*command(loopback), "true"], stderr=subprocess.DEVNULL).returncode == 0
    except OSError:
        return False


def outside():
    """Before alone() has begun again: the place for what needs the network."""
    return INSIDE not in os.environ


def clear_away(folder, keep):
    """In a `finally`: the folder goes, but where it is to be kept, or an error (no interruption) wants to be looked into."""
    if keep or isinstance(sys.exc_info()[1], Exception):
        print(f"kept {folder}", flush=True)
    else:
        shutil.rmtree(folder, ignore_errors=True)


def alone(main, loopback=False):
    """main()'s result; or does not return."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    if outside() and allowed(loopback):
        os.environ[INSIDE] = "1"
        sys.stdout.flush()
        os.execvp("unshare", [*command(loopback), sys.executable, *sys.argv])
    return main()

"""For tests that mount: namespaces of their own, so that nothing stays mounted or running however they end.

    if __name__ == "__main__":
        sys.exit(alone(main))

alone() starts the program once more, as the first process of new mount and process namespaces. What it mounts nobody else sees;
when it ends, also by SIGKILL (as ctest ends what takes too long), the kernel ends all that it started and lets go of all
that it mounted, loop devices too. Who is not root becomes it in a user namespace, which may mount a tmpfs, and FUSE where
/dev/fuse is for everybody. Where namespaces are not allowed the program runs as it is, and only its own cleaning up helps.

SIGTERM, to the program's process group, ends it as SIGINT does: through its `finally`."""
import os
import shutil
import signal
import subprocess
import sys

INSIDE = "HF_TEST_ALONE"


def command():
    become_root = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    return ["unshare", *become_root, "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "slave"]


def allowed():
    try:
        return subprocess.run([*command(), "true"], stderr=subprocess.DEVNULL).returncode == 0
    except OSError:
        return False


def clear_away(folder, keep):
    """In a `finally`: the folder goes, but where it is to be kept, or an error (no interruption) wants to be looked into."""
    if keep or isinstance(sys.exc_info()[1], Exception):
        print(f"kept {folder}", flush=True)
    else:
        shutil.rmtree(folder, ignore_errors=True)


def alone(main):
    """main()'s result; or does not return."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    if INSIDE not in os.environ and allowed():
        os.environ[INSIDE] = "1"
        sys.stdout.flush()
        os.execvp("unshare", [*command(), sys.executable, *sys.argv])
    return main()

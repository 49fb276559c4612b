"""A memory cgroup for the server under test (root; v2 or v1): Holdfast(…, wrapper=Cgroup(512).wrapper())."""
import os


class Cgroup:
    def __init__(self, megabytes):
        v2 = os.path.exists("/sys/fs/cgroup/cgroup.controllers")
        self.folder = ("/sys/fs/cgroup" if v2 else "/sys/fs/cgroup/memory") + f"/holdfast-{os.getpid()}"
        os.mkdir(self.folder)
        if v2:
            with open("/sys/fs/cgroup/cgroup.subtree_control", "w") as f:
                f.write("+memory")
        with open(os.path.join(self.folder, "memory.max" if v2 else "memory.limit_in_bytes"), "w") as f:
            f.write(str(megabytes << 20))

    def wrapper(self):
        return ["/bin/sh", "-c", f'echo $$ > {self.folder}/cgroup.procs; exec "$@"', "sh"]

    def close(self):
        """After the last process has ended."""
        os.rmdir(self.folder)

"""A holdfast server for tests: in a folder of its own, on free loopback ports, stopped by its own pid."""
import os
import re
import selectors
import signal
import subprocess
import time


class Server:
    """start() waits for the ready line. Ports stay the same over restarts, so that clients find it again."""

    def __init__(self, binary, folder, *flags):
        self.binary, self.folder, self.flags = binary, folder, list(flags)
        self.listen = self.http = "127.0.0.1:0"
        self.process = None
        os.makedirs(folder, exist_ok=True)

    def start(self, deadline_s=60):
        began = time.monotonic()
        self.log = open(os.path.join(self.folder, "server.log"), "ab")
        self.process = subprocess.Popen(
            [self.binary, "serve", "--data", os.path.join(self.folder, "data"), "--listen", self.listen,
             "--http", self.http, *self.flags], stdout=subprocess.PIPE, stderr=self.log)
        line = self._ready_line(began + deadline_s)
        found = re.match(r"ready listen=(\S+) http=(\S+) pid=(\d+)", line)
        if not found:
            raise RuntimeError(f"no ready line but {line!r}; see {self.log.name}")
        self.listen, self.http = found.group(1), found.group(2)
        return time.monotonic() - began

    def _ready_line(self, until):
        line = b""
        with selectors.DefaultSelector() as ready:
            ready.register(self.process.stdout, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                if not ready.select(max(0, until - time.monotonic())):
                    break
                byte = os.read(self.process.stdout.fileno(), 1)
                if not byte:
                    break
                line += byte
        return line.decode()

    def kill(self):
        self._end(signal.SIGKILL)

    def stop(self):
        """A clean stop; returns the exit status."""
        return self._end(signal.SIGTERM)

    def _end(self, sig):
        if self.process is None:
            return None
        self.process.send_signal(sig)
        status = self.process.wait(timeout=60)
        self.process.stdout.close()
        self.log.close()
        self.process = None
        return status

    @property
    def pid(self):
        return self.process.pid

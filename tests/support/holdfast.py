"""The server under test, in a folder of its own on free loopback ports.

    with Holdfast(binary, folder, "--num.partitions=4") as server:
        ... server.kafka ("127.0.0.1:40123"), server.port, server.http, server.pid, server.log() ...

At the end it is stopped, and the stop must be a clean one. A test that means the server to end otherwise says so by stop()."""

import contextlib
import os
import re
import signal
import subprocess
import urllib.request

READY = re.compile(r"^ready listen=(\S+) http=(\S+) pid=(\d+)$")
STOP_S = 120.0


class Holdfast:
    def __init__(self, binary, folder, *flags, wrapper=(), same_ports=False):
        self.binary = os.path.abspath(binary)
        self.folder = os.path.abspath(folder)
        os.makedirs(self.folder, exist_ok=True)
        self.data = os.path.join(self.folder, "data")
        self.errors = os.path.join(self.folder, "server.log")
        self.flags = list(flags)
        self.wrapper = list(wrapper)  # a program that runs the server, such as strace
        self.listen = "127.0.0.1:0"  # set it to self.kafka to keep the port over restarts
        self.listen_http = "127.0.0.1:0"
        self.same_ports = same_ports  # both are kept
        self.process = None

    def start(self):
        command = self.wrapper + [self.binary, "serve", "--data", self.data, "--listen", self.listen, "--http",
                                  self.listen_http] + self.flags
        with open(self.errors, "a") as errors:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors,
                                            cwd=self.folder, text=True)
        self.pid = self.process.pid  # the wrapper's, until the server tells its own
        line = self.process.stdout.readline()
        match = READY.match(line.rstrip("\n"))
        if not match:
            self.process.kill()
            self.process.wait()
            raise RuntimeError(f"not ready: {line!r}\n{self.log()}")
        self.kafka, self.http, self.pid = match.group(1), match.group(2), int(match.group(3))
        self.port = int(self.kafka.rsplit(":", 1)[1])
        if self.same_ports:
            self.listen, self.listen_http = self.kafka, self.http
        return self

    def stop(self, how=signal.SIGTERM):
        """The exit status; SIGTERM is a clean stop, SIGKILL a crash."""
        if not self.process:
            return None
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it has ended, its wrapper has not yet
                os.kill(self.pid, how)
        try:
            status = self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
        self.process.stdout.close()
        self.process = None
        return status

    def alive(self):
        return self.process.poll() is None

    def log(self):
        with open(self.errors, errors="replace") as f:
            return f.read()

    def get(self, path):
        with urllib.request.urlopen(f"http://{self.http}{path}", timeout=60) as answer:
            return answer.read().decode()

    def metrics(self):
        lines = [line.rsplit(" ", 1) for line in self.get("/metrics").splitlines() if not line.startswith("#")]
        return {name: float(value) for name, value in lines}

    def memory_kb(self, what="VmRSS"):
        with open(f"/proc/{self.pid}/status") as f:
            return int(re.search(rf"^{what}:\s+(\d+)", f.read(), re.M).group(1))

    def __enter__(self):
        return self.start()

    def __exit__(self, failed, *unused):
        status = self.stop()
        if status and not failed:
            raise RuntimeError(f"the server ended with status {status}\n{self.log()[-2000:]}")

"""Other people's servers for tests and the demo (the server under test: holdfast.py): started in a folder of their own on free loopback ports, stopped by their pid.

    with Redis(folder) as redis, Postgres(folder) as pg:
        ... redis.port, redis.url, pg.port, pg.url ...

A server is ready when start() returns, else start() raises with the end of its log. PostgreSQL refuses to run as root,
so then it runs as user postgres, in a folder that this user owns.
"""

import glob
import os
import pwd
import shutil
import signal
import socket
import subprocess

from until import until

STOP_S = 60.0


def free_port():
    """A port that nobody had a moment ago; start() tries another if somebody took it since."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def answers(port):
    try:
        socket.create_connection(("127.0.0.1", port), 10).close()
        return True
    except OSError:
        return False


class Server:
    """One child process with its folder and its log file."""

    name = "server"

    def __init__(self, folder):
        self.folder = os.path.join(os.path.abspath(folder), self.name)
        self.log = os.path.join(os.path.abspath(folder), self.name + ".log")
        self.process = None
        self.port = 0

    def prepare(self):
        os.makedirs(self.folder, exist_ok=True)

    def command(self):
        raise NotImplementedError

    def ready(self):
        return answers(self.port)

    def tail(self):
        with open(self.log, errors="replace") as f:
            return f.read()[-2000:]

    def start(self):
        self.prepare()
        for attempt in range(5):
            self.port = free_port()
            with open(self.log, "a") as log:
                self.process = subprocess.Popen(self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                                cwd=self.folder, start_new_session=True)
            until(lambda: self.ready() or self.process.poll() is not None, f"{self.name} to start")
            if self.process.poll() is None:
                return self
        raise RuntimeError(f"{self.name} does not start:\n{self.tail()}")

    def stop(self, how=signal.SIGTERM):
        if self.process and self.process.poll() is None:
            self.process.send_signal(how)
            try:
                self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process = None

    def __enter__(self):
        return self.start()

    def __exit__(self, *unused):
        self.stop()


class Redis(Server):
    name = "redis"

    def __init__(self, folder, aof=True):
        super().__init__(folder)
        self.aof = aof

    def command(self):
        return ["redis-server", "--bind", "127.0.0.1", "--port", str(self.port), "--dir", self.folder, "--save", "",
                "--appendonly", "yes" if self.aof else "no", "--maxmemory-policy", "noeviction"]

    def ready(self):
        try:
            with socket.create_connection(("127.0.0.1", self.port), 10) as s:
                s.sendall(b"PING\r\n")
                return s.recv(16).startswith(b"+PONG")
        except OSError:
            return False

    @property
    def url(self):
        return f"redis://127.0.0.1:{self.port}"


class Postgres(Server):
    name = "postgres"

    def __init__(self, folder, settings=()):
        super().__init__(folder)
        self.settings = list(settings)
        self.bin = sorted(glob.glob("/usr/lib/postgresql/*/bin"), key=lambda p: int(p.split("/")[4]))[-1]

    def as_user(self, argv):
        if os.getuid() != 0:
            return argv
        return ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--init-groups", "--"] + argv

    def prepare(self):
        if os.path.exists(os.path.join(self.folder, "PG_VERSION")):
            return
        os.makedirs(self.folder, exist_ok=True)
        if os.getuid() == 0:
            user = pwd.getpwnam("postgres")
            os.chown(self.folder, user.pw_uid, user.pw_gid)
            self.open_path()
        subprocess.run(self.as_user([os.path.join(self.bin, "initdb"), "-D", self.folder, "-U", "postgres", "-A",
                                     "trust", "-E", "UTF8", "--locale=C", "--no-sync"]),
                       check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, cwd="/")

    def open_path(self):
        """A folder made by mkdtemp lets nobody else through: user postgres needs to pass."""
        parent = os.path.dirname(self.folder)
        os.chmod(parent, os.stat(parent).st_mode | 0o011)

    def command(self):
        settings = ["listen_addresses=127.0.0.1", f"port={self.port}", f"unix_socket_directories={self.folder}"]
        flags = [x for s in settings + self.settings for x in ("-c", s)]
        return self.as_user([os.path.join(self.bin, "postgres"), "-D", self.folder] + flags)

    def ready(self):
        return subprocess.run([os.path.join(self.bin, "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port),
                               "-U", "postgres"]).returncode == 0

    def stop(self, how=signal.SIGINT):
        super().stop(how)  # SIGINT: fast shutdown, without waiting for clients

    @property
    def url(self):
        return f"postgres://postgres@127.0.0.1:{self.port}/postgres"


def missing():
    """Names of what is not installed here."""
    found = {"redis-server": shutil.which("redis-server"), "postgresql": glob.glob("/usr/lib/postgresql/*/bin/initdb")}
    return [name for name, where in found.items() if not where]

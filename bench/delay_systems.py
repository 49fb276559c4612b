"""The systems that bench/delay measures: how each is started, fed and emptied. Messages are of 100 bytes and say their number and
when they are due."""
import math
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

from peers import HOLDFAST, cpu_s, free_port, memory_mb, said_by, top, version, version_in

sys.path.insert(0, os.path.join(top, "tests", "support"))
from holdfast import Holdfast  # noqa: E402

JOIN_S = 120
ROCKETMQ = "HF_BENCH_ROCKETMQ"  # its class path, handed on into the namespace, where there is no network


def now_ms():
    return time.time_ns() // 1000000


def payload(number, due_ms):
    return b"%010d %013d " % (number, due_ms) + b"x" * 75


def number_and_due(data):
    return int(data[0:10]), int(data[11:24])


def connect(port):
    deadline = time.monotonic() + 120
    while True:
        try:
            s = socket.create_connection(("127.0.0.1", port))
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"cubic")
            return s
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


class Server:
    """A system under test: how it is started, fed and emptied."""

    quiet_s = 10  # without a message for so long: nothing more comes

    def __init__(self, folder):
        self.folder = folder
        os.makedirs(folder)
        self.process, self.consumers = None, []

    def spawn(self, command):
        with open(os.path.join(self.folder, "out"), "ab") as out:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=self.folder)

    def kill(self, how=signal.SIGKILL):
        self.process.send_signal(how)
        self.process.wait()

    def stop(self):
        if self.process and self.process.poll() is None:
            self.kill()

    def before_send(self):
        """What a send needs and takes time, if anything."""

    def cpu_s(self):
        return cpu_s(self.process.pid)

    def memory(self):
        return memory_mb(self.process.pid, "RssAnon") * (1 << 20)

    def disk(self):
        whole = 0
        for path, _, names in os.walk(self.folder):
            whole += sum(os.lstat(os.path.join(path, n)).st_blocks * 512 for n in names)
        return whole


class OfHoldfast(Server):
    name = "Holdfast"

    @staticmethod
    def missing():
        return None if os.path.exists(HOLDFAST) else "no build/holdfast"

    @staticmethod
    def version():
        return said_by(HOLDFAST, "--version")

    def start(self):
        self.server = Holdfast(HOLDFAST, self.folder)
        if getattr(self, "kafka", None):
            self.server.listen = self.kafka
        self.server.start()
        self.kafka, self.process = self.server.kafka, self.server.process

    def send(self, messages):
        import confluent_kafka

        failed = []
        p = confluent_kafka.Producer({"bootstrap.servers": self.kafka, "acks": "all", "linger.ms": 5,
                                      "queue.buffering.max.messages": 1000000})

        def answered(error, _):
            if error:
                failed.append(error)

        for number, due in messages:
            p.produce("holdfast.delay", payload(number, due), headers=[("hf-topic", b"fired"), ("hf-due", b"%d" % due)],
                      on_delivery=answered)
            if number % 1000 == 0:
                p.poll(0)
        p.flush()
        assert not failed, failed[0]

    def consume(self, take, joined):
        import confluent_kafka

        c = confluent_kafka.Consumer({"bootstrap.servers": self.kafka, "group.id": "bench", "fetch.wait.max.ms": 100,
                                      "enable.auto.commit": False})
        place = confluent_kafka.TopicPartition("fired", 0, 0)
        c.assign([place])
        c.get_watermark_offsets(place, JOIN_S)
        joined()
        go = True
        while go:
            first = c.poll(0.02)  # consume() alone would wait for the batch to be full
            some = [first] + c.consume(1000, 0) if first else []
            go = take([m.value() for m in some if not m.error()])
        c.close()


class OfDistribution(Server):
    """A program of the distribution's; it keeps its port when it is started again."""

    def __init__(self, folder):
        super().__init__(folder)
        self.port = free_port()

    @classmethod
    def missing(cls):
        return None if shutil.which(cls.program) else f"{cls.program} is not installed"

    @classmethod
    def version(cls):
        return version(cls.program)


class OfBeanstalkd(OfDistribution):
    name = program = "beanstalkd"

    def start(self):
        self.process = self.spawn([shutil.which(self.program), "-l", "127.0.0.1", "-p", str(self.port), "-b", self.folder, "-f0"])
        connect(self.port).close()

    def send(self, messages):
        s = connect(self.port)
        answers = s.makefile("rb")
        for at in range(0, len(messages), 500):
            some = messages[at:at + 500]
            now = now_ms()
            s.sendall(b"".join(b"put 0 %d 60 100\r\n%s\r\n" % (max(0, math.ceil((due - now) / 1000)), payload(n, due))
                               for n, due in some))
            for _ in some:
                assert answers.readline().startswith(b"INSERTED")
        s.close()

    def consume(self, take, joined):
        s = connect(self.port)
        answers = s.makefile("rb")
        joined()
        go = True
        while go:
            s.sendall(b"reserve-with-timeout 0\r\n" * 100)
            got, ids = [], []
            for _ in range(100):
                word = answers.readline().split()
                if word[0] == b"RESERVED":
                    ids.append(word[1])
                    got.append(answers.read(int(word[2]) + 2)[:-2])
            s.sendall(b"".join(b"delete %s\r\n" % i for i in ids))
            for _ in ids:
                answers.readline()
            go = take(got)
            if not got:
                time.sleep(0.001)
        s.close()


MOVER = b"""local due = redis.call('ZRANGE', 'delayed', '-inf', ARGV[1], 'BYSCORE', 'LIMIT', 0, 1000)
if #due > 0 then redis.call('RPUSH', 'ready', unpack(due)); redis.call('ZREM', 'delayed', unpack(due)) end
return #due"""


def resp(*words):
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in words)


class OfRedis(OfDistribution):
    name, program = "Redis", "redis-server"

    def start(self):
        self.process = self.spawn([shutil.which(self.program), "--port", str(self.port), "--bind", "127.0.0.1", "--dir",
                                   self.folder, "--appendonly", "yes", "--appendfsync", "always", "--save", ""])
        s = connect(self.port)
        deadline = time.monotonic() + JOIN_S
        s.sendall(resp(b"PING"))
        while not s.recv(100).startswith(b"+PONG"):  # -LOADING after a restart
            assert time.monotonic() < deadline, "redis-server does not get ready"
            time.sleep(0.02)
            s.sendall(resp(b"PING"))
        s.close()
        self.mover = multiprocessing.Process(target=self.move, daemon=True)
        self.mover.start()

    def kill(self, how=signal.SIGKILL):
        super().kill(how)
        self.mover.terminate()
        self.mover.join()

    def move(self):
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        s = connect(self.port)
        try:
            while True:
                s.sendall(resp(b"EVAL", MOVER, b"0", b"%d" % now_ms()))
                answer = s.recv(100)
                if not answer:
                    return
                if answer == b":0\r\n":
                    time.sleep(0.001)
        except OSError:
            return

    def send(self, messages):
        s = connect(self.port)
        answers = s.makefile("rb")
        for at in range(0, len(messages), 500):
            some = messages[at:at + 500]
            s.sendall(b"".join(resp(b"ZADD", b"delayed", b"%d" % due, payload(n, due)) for n, due in some))
            for _ in some:
                assert answers.readline() == b":1\r\n"
        s.close()

    def consume(self, take, joined):
        s = connect(self.port)
        answers = s.makefile("rb")
        joined()
        go = True
        while go:
            s.sendall(resp(b"LPOP", b"ready", b"1000"))
            count = int(answers.readline()[1:])
            got = []
            for _ in range(max(count, 0)):
                got.append(answers.read(int(answers.readline()[1:]) + 2)[:-2])
            go = take(got)
            if not got:
                time.sleep(0.001)
        s.close()


class OfRocketmq(Server):
    name = "RocketMQ"
    quiet_s = 30  # its ticks are seconds, and after a crash it reads its log again

    @staticmethod
    def missing():
        found = os.environ[ROCKETMQ]
        return found[len("without: "):] if found.startswith("without: ") else None

    @staticmethod
    def version():
        return f"RocketMQ {version_in(os.environ[ROCKETMQ], 'rocketmq-broker')} on {version('java')}"

    def errors(self):
        return open(os.path.join(self.folder, "client.err"), "ab")

    def why(self):
        with open(os.path.join(self.folder, "client.err"), errors="replace") as f:
            return "".join(f.readlines()[-3:])

    def java(self, *words):
        source = os.path.join(top, "bench", "Rocketmq.java")
        return ["java", "-Xmx1g", f"-Drocketmq.client.logRoot={self.folder}/logs", "-cp", os.environ[ROCKETMQ], source, *words]

    def start(self):
        if not getattr(self, "names", None):
            self.names, self.port = free_port(), free_port()
            with open(os.path.join(self.folder, "broker.conf"), "w") as f:
                f.write(f"namesrvAddr=127.0.0.1:{self.names}\nbrokerIP1=127.0.0.1\nlistenPort={self.port}\n"
                        f"storePathRootDir={self.folder}/store\nstorePathCommitLog={self.folder}/store/commitlog\n"
                        "flushDiskType=SYNC_FLUSH\ntimerWheelEnable=true\nautoCreateTopicEnable=true\n"
                        "mappedFileSizeCommitLog=268435456\nwarmMapedFileEnable=false\n")
            with open(os.path.join(self.folder, "namesrv.conf"), "w") as f:
                f.write(f"listenPort={self.names}\nbindAddress=127.0.0.1\n")
            os.environ["ROCKETMQ_HOME"] = self.folder
            self.namesrv = self.spawn(["java", "-Xmx256m", f"-Duser.home={self.folder}", "-cp", os.environ[ROCKETMQ],
                                       "org.apache.rocketmq.namesrv.NamesrvStartup", "-c", "namesrv.conf"])
            connect(self.names).close()
        self.process = self.spawn(["java", "-Xms1g", "-Xmx1g", f"-Duser.home={self.folder}", "-cp", os.environ[ROCKETMQ],
                                   "org.apache.rocketmq.broker.BrokerStartup", "-c", "broker.conf"])
        connect(self.port).close()
        subprocess.run(self.java("ready", f"127.0.0.1:{self.names}"), check=True, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL, timeout=180)

    def stop(self):
        super().stop()
        if getattr(self, "namesrv", None):
            self.namesrv.kill()
            self.namesrv.wait()

    def before_send(self):
        """Java has started, compiled the client and found the broker."""
        with self.errors() as errors:
            self.sender = subprocess.Popen(self.java("send", f"127.0.0.1:{self.names}"), stdin=subprocess.PIPE,
                                           stdout=subprocess.PIPE, stderr=errors)
        assert self.sender.stdout.readline() == b"ready\n", f"RocketMQ's producer does not start: {self.why()}"

    def send(self, messages):
        p = self.sender
        p.stdin.write(b"".join(payload(n, due) for n, due in messages))
        p.stdin.close()
        assert p.stdout.readline() == b"done\n", f"RocketMQ did not take all messages: {self.why()}"
        p.stdout.close()
        p.wait()

    def consume(self, take, joined):
        group = f"bench-{os.getpid()}-{time.time_ns()}"
        with self.errors() as errors:
            p = subprocess.Popen(self.java("consume", f"127.0.0.1:{self.names}", group), stdin=subprocess.PIPE,
                                 stdout=subprocess.PIPE, stderr=errors)
        os.set_blocking(p.stdout.fileno(), False)
        rest, go = b"", True
        try:
            while go:
                rest += p.stdout.read() or b""
                rows = [rest[at:at + 113] for at in range(0, len(rest) - 112, 113)]  # the moment in ms (13 digits), the message
                rest = rest[113 * len(rows):]
                if any(row.startswith(b"joined") for row in rows):
                    joined()
                rows = [row for row in rows if not row.startswith(b"joined")]
                go = take([row[13:] for row in rows], [int(row[:13]) for row in rows])
                assert p.poll() is None, f"RocketMQ's client has ended: {self.why()}"
                time.sleep(0.001)
        finally:
            p.kill()
            p.wait()


SYSTEMS = (OfHoldfast, OfBeanstalkd, OfRedis, OfRocketmq)

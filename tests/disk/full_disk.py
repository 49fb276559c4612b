#!/usr/bin/python3
"""A full disk, for real: full_disk.py --binary build/holdfast [--keep]

The data folder lies on a small tmpfs. A file of ours beside it takes its space away and gives it back. Ends with 77 (skipped),
saying why, where no tmpfs can be mounted.

  below the reserve   clients' produces fail with KAFKA_STORAGE_ERROR; reading, firing, committed offsets and decisions go on
  nothing left        the server stays up and readers read; what cannot be moved stays pending, nothing is rejected
  space again         producing works again; what was pending arrives, late, once; all that was acknowledged is there
  a start when full   ends with a line that says so, or serves; with space again everything is there"""
import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from alone import alone, clear_away  # noqa: E402
from holdfast import Holdfast  # noqa: E402
from until import until  # noqa: E402

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition  # noqa: E402
from confluent_kafka.admin import AdminClient, NewTopic  # noqa: E402

SKIPPED = 77
MIB = 1 << 20
DISK, RESERVE = 400 * MIB, 64 * MIB
WAIT_S = 60


class Disk:
    def __init__(self, folder):
        self.at = os.path.join(folder, "mount")
        self.ballast = os.path.join(self.at, "ballast")
        os.makedirs(self.at)

    def mount(self):
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", self.at], stderr=subprocess.PIPE,
                              text=True)
        if done.returncode:
            raise OSError(done.stderr.strip())

    def unmount(self):
        subprocess.run(["umount", "-l", self.at], stderr=subprocess.DEVNULL)

    def free(self):
        st = os.statvfs(self.at)
        return st.f_bavail * st.f_frsize

    def leave(self, n):
        """Takes or gives back space until n bytes are free."""
        fd = os.open(self.ballast, os.O_RDWR | os.O_CREAT)
        try:
            size = os.fstat(fd).st_size
            more = self.free() - n
            if more < 0:
                os.ftruncate(fd, max(0, size + more))
            elif more > 0:
                os.posix_fallocate(fd, size, more)
        finally:
            os.close(fd)


class Client:
    def __init__(self, servers):
        self.servers = servers
        self.acked = {}    # topic -> values
        self.producer = Producer({"bootstrap.servers": servers, "message.timeout.ms": WAIT_S * 1000, "acks": "all", "retries": 0,
                                  "linger.ms": 0, "log_level": 0})

    def send(self, topic, value, headers=(), partition=0):
        """The error code of the answer; 0 if the message was acknowledged."""
        answers = []
        self.producer.produce(topic, value, partition=partition, headers=list(headers),
                              on_delivery=lambda e, m: answers.append(e.code() if e else 0))
        self.producer.flush(WAIT_S)
        if answers == [0]:
            self.acked.setdefault(topic, []).append(value)
        return answers[0] if answers else None

    def read(self, topic):
        """All values that are there."""
        consumer = Consumer({"bootstrap.servers": self.servers, "group.id": "reader", "enable.partition.eof": True,
                             "auto.offset.reset": "earliest", "enable.auto.commit": False, "log_level": 0})
        consumer.assign([TopicPartition(topic, 0, 0)])
        values, deadline = [], time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            m = consumer.poll(1.0)
            if m is not None and m.error() is None:
                values.append((m.value().decode(), m.timestamp()[1], dict(m.headers() or [])))
            elif m is not None and m.error().code() == KafkaError._PARTITION_EOF:
                consumer.close()
                return values
        raise TimeoutError(f"{topic} was not read to its end")

    def commit(self, offset):
        consumer = Consumer({"bootstrap.servers": self.servers, "group.id": "full", "log_level": 0})
        try:
            consumer.commit(offsets=[TopicPartition("plain", 0, offset)], asynchronous=False)
            return 0
        except KafkaException as error:
            return error.args[0].code()
        finally:
            consumer.close()

    def committed(self):
        consumer = Consumer({"bootstrap.servers": self.servers, "group.id": "full", "log_level": 0})
        try:
            return consumer.committed([TopicPartition("plain", 0)], timeout=20)[0].offset
        finally:
            consumer.close()


def check(ok, text):
    if not ok:
        raise AssertionError(text)


def delayed(due_ms):
    return [("hf-topic", b"fired"), ("hf-due", str(due_ms).encode())]


def now_ms():
    return int(time.time() * 1000)


def below_the_reserve(server, disk, client):
    for n in range(20):
        check(client.send("plain", f"before {n}") == 0, "an empty disk refused a message")
        check(client.send("holdfast.delay", f"soon {n}", delayed(now_ms() + 2000)) == 0, "a delayed message was refused")
    halves = [("hf-group", b"g"), ("hf-op", b"prepare"), ("hf-topic", b"settled"), ("hf-check-after", b"1h")]
    producer = client.producer
    producer.produce("holdfast.txn", "half", key="t", headers=halves)
    producer.flush(WAIT_S)
    disk.leave(RESERVE - 16 * MIB)
    errors = set()
    until(lambda: errors.add(client.send("plain", "refused")) or errors != {0}, "a produce to be refused", WAIT_S)
    errors = {client.send(t, "refused", h) for t, h in (("plain", ()), ("holdfast.delay", delayed(now_ms() + 1000)))}
    check(errors == {KafkaError.KAFKA_STORAGE_ERROR}, f"produces were answered with {errors}")
    check(len(client.read("plain")) >= 20, "reading stopped")
    check(client.commit(7) == 0 and client.committed() == 7, "an offset could not be committed")
    until(lambda: len(client.read("fired")) == 20, "20 delayed messages to fire from the reserve", WAIT_S)
    print("below the reserve: produces get KAFKA_STORAGE_ERROR, moves and commits go on")


def decided_below_the_reserve(server, disk, client):
    """A decision is what frees space in the end, and comes over HTTP or by the producer; the door is closed to the latter."""
    answer = subprocess.run([server.binary, "txn", "commit", "g", "t", "--server", server.kafka, "--api", server.http],
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    check(answer.returncode == 0, f"a decision was refused: {answer.stdout}")
    until(lambda: len(client.read("settled")) == 1, "the committed half", WAIT_S)
    print("below the reserve: an operator's decision goes through")


def nothing_left(server, disk, client):
    disk.leave(200 * MIB)
    until(lambda: client.send("plain", "between") == 0, "producing to work again", WAIT_S)
    due = now_ms() + 3000
    # More than the room that segments have left: they cannot all be moved while the disk is full.
    for n in range(60):
        check(client.send("holdfast.delay", f"late {n} " + "x" * 500_000, delayed(due)) == 0, "refused with space left")
    disk.leave(0)
    sent = now_ms()
    while now_ms() < max(due, sent) + 3000:
        client.send("plain", "refused or not")
        check(server.alive(), "the server died of a full disk:\n" + server.log()[-2000:])
        check(len(client.read("plain")) >= 20, "reading stopped")
    fired = len(client.read("fired")) - 20
    check(fired < 60, "all could be moved: the disk was not full")
    files = len(os.listdir(os.path.join(server.data, "journal")))
    check(files <= 8, f"{files} files in journal/: tries to make one are left behind")
    check(client.read("holdfast.rejected") == [], "a full disk rejected a message")
    print(f"nothing left: the server serves, {fired} of 60 could be moved, none was rejected")


def space_again(server, disk, client):
    disk.leave(200 * MIB)
    until(lambda: client.send("plain", "after") == 0, "producing to work again", WAIT_S)
    until(lambda: len(client.read("fired")) >= 80, "what was pending to arrive", WAIT_S)
    compare(client)
    print("space again: all that was acknowledged is there, once")


def compare(client):
    fired = client.read("fired")
    check(sorted(v for v, _, _ in fired) == sorted(client.acked["holdfast.delay"]), "fired is not what was accepted")
    check(all(t >= int(h["hf-due"]) for _, t, h in fired), "a message came early")
    check([v for v, _, _ in client.read("plain")] == client.acked["plain"], "plain is not what was acknowledged")
    check(client.read("holdfast.rejected") == [], "a message was rejected")
    check(client.committed() == 7, "the committed offset went back")


def a_start_when_full(server, disk, client):
    for left in (0, 4 * MIB, 24 * MIB):
        server.stop(signal.SIGKILL)
        disk.leave(left)
        logged = len(server.log())
        try:
            server.start()
            print(f"a start with {left // MIB} MiB left serves")
        except RuntimeError:
            said = server.log()[logged:]
            check("open_failed" in said or "start_failed" in said, f"the start failed without a word: {said}")
            print(f"a start with {left // MIB} MiB left says: {said.strip().splitlines()[-1]}")
    server.stop(signal.SIGKILL)
    disk.leave(200 * MIB)
    server.start()
    until(lambda: client.send("plain", "the last") == 0, "producing to work again", WAIT_S)
    compare(client)
    check(server.stop() == 0, "the clean stop failed")
    server.start()
    compare(client)
    check(server.stop() == 0, "the clean stop failed")


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--binary", required=True)
    options.add_argument("--keep", action="store_true", help="leave the folder for a look")
    o = options.parse_args()
    if os.geteuid() != 0:
        print("skipped: needs root, or a user namespace, to mount a tmpfs")
        return SKIPPED
    folder = tempfile.mkdtemp(prefix="holdfast-full-")
    disk = Disk(folder)
    try:
        disk.mount()
    except OSError as error:
        shutil.rmtree(folder)
        print(f"skipped: no tmpfs can be mounted here: {error}")
        return SKIPPED
    server = Holdfast(o.binary, folder, "--segment.bytes=64MiB")
    server.data = os.path.join(disk.at, "data")
    try:
        server.start()
        server.listen = server.kafka
        admin = AdminClient({"bootstrap.servers": server.kafka, "log_level": 0})
        for future in admin.create_topics([NewTopic(t, 1, 1) for t in ("plain", "fired", "settled")]).values():
            future.result(WAIT_S)
        client = Client(server.kafka)
        for step in (below_the_reserve, decided_below_the_reserve, nothing_left, space_again, a_start_when_full):
            step(server, disk, client)
    except BaseException:
        print(server.log()[-3000:])
        raise
    finally:
        server.stop(signal.SIGKILL)
        disk.unmount()
        clear_away(folder, o.keep)
    return 0


if __name__ == "__main__":
    sys.exit(alone(main))

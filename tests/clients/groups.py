#!/usr/bin/python3
"""Consumer groups with other people's clients: kcat, librdkafka in C, python3-kafka, kafkajs (and kafka-python 3, when
named). Members come, go and are killed; the server is stopped and killed; offsets stay.

    groups.py BINARY GROUP_MEMBER GROUP_OFFSETS FOLDER_OF_FETCHED_CLIENTS [test ...]
"""

import os
import signal
import subprocess
import sys
import threading
import time

here = os.path.dirname(os.path.abspath(__file__))
support = os.path.join(here, "..", "support")
sys.path.insert(0, support)
sys.dont_write_bytecode = True
from cases import only_when_named, run_tests, test  # noqa: E402
from holdfast import Holdfast  # noqa: E402
from until import until  # noqa: E402
from kafka import KafkaConsumer, KafkaProducer, TopicPartition  # noqa: E402
from kafka.admin import KafkaAdminClient, NewTopic  # noqa: E402
from kafka.structs import OffsetAndMetadata  # noqa: E402
import kafka.errors  # noqa: E402

binary, member_binary, offsets_binary, clients = sys.argv[1:5]


def topic(server, name, partitions):
    admin = KafkaAdminClient(bootstrap_servers=server.kafka)
    admin.create_topics([NewTopic(name, partitions, 1)])
    admin.close()


def produce(server, name, partitions, start, stop):
    """Values start..stop-1, partition by turns."""
    producer = KafkaProducer(bootstrap_servers=server.kafka)
    for i in range(start, stop):
        producer.send(name, str(i).encode(), partition=i % partitions)
    producer.flush()
    producer.close()


class Member:
    """A group_member process and what it has printed."""

    def __init__(self, server, group, name, **properties):
        self.partitions, self.values, self.offsets, self.rebalances = set(), [], {}, 0
        settings = [f"{key.replace('_', '.')}={value}" for key, value in properties.items()]
        self.process = subprocess.Popen([member_binary, server.kafka, group, name, *settings],
                                        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self):
        for line in self.process.stdout:
            word, *rest = line.split()
            if word == "assigned":
                self.rebalances += 1
                self.partitions |= {int(p) for p in rest}
            elif word == "revoked":
                self.partitions -= {int(p) for p in rest}
            else:
                self.offsets.setdefault(int(rest[0]), []).append(int(rest[1]))
                self.values.append(int(rest[2]))

    def end(self, how=signal.SIGTERM):
        if self.process.poll() is None:
            self.process.send_signal(how)
        self.process.wait(30)
        self.thread.join(10)
        self.process.stdout.close()


def shared(members, partitions):
    held = [p for m in members for p in m.partitions]
    return all(m.partitions for m in members) and sorted(held) == list(range(partitions))


def committed(server, group, name, partitions):
    admin = KafkaAdminClient(bootstrap_servers=server.kafka)
    offsets = admin.list_consumer_group_offsets(group, partitions=[TopicPartition(name, p) for p in range(partitions)])
    admin.close()
    return [offsets[TopicPartition(name, p)].offset for p in range(partitions)]


@test
def kcat_goes_on_where_its_group_was_over_stops_and_kills(server):
    def read():
        run = subprocess.run(["kcat", "-b", server.kafka, "-q", "-G", "cats", "-e", "-X", "auto.offset.reset=earliest",
                              "-X", "session.timeout.ms=6000", "t"], capture_output=True, timeout=120, text=True)
        assert run.returncode == 0, run.stderr
        return sorted(int(x) for x in run.stdout.split())

    topic(server, "t", 2)
    produce(server, "t", 2, 0, 100)
    assert read() == list(range(100))
    for i, how in enumerate((signal.SIGTERM, signal.SIGKILL, signal.SIGKILL)):
        server.stop(how)
        server.start()
        produce(server, "t", 2, 100 * (i + 1), 100 * (i + 2))
        assert read() == list(range(100 * (i + 1), 100 * (i + 2))), how


def comes_and_goes(server, strategy):
    topic(server, "t", 6)
    produce(server, "t", 6, 0, 300)
    first = Member(server, "g", "t", partition_assignment_strategy=strategy)
    members = [first]
    try:
        until(lambda: shared([first], 6) and len(set(first.values)) == 300, "alone")
        second = Member(server, "g", "t", partition_assignment_strategy=strategy)
        members.append(second)
        until(lambda: shared(members, 6), "shared")
        produce(server, "t", 6, 300, 600)
        until(lambda: set(first.values + second.values) == set(range(600)), "read by both")
        assert second.values, "the second had nothing to do"
        second.end()
        until(lambda: shared([first], 6), "alone again")
        produce(server, "t", 6, 600, 900)
        until(lambda: set(first.values + second.values) == set(range(900)), "all")
        first.end()
        everything = first.values + second.values
        assert len(everything) == 900, f"{len(everything) - 900} read twice though all members left in order"
        assert committed(server, "g", "t", 6) == [150] * 6
    finally:
        for m in members:
            m.end(signal.SIGKILL)


@test
def a_librdkafka_member_comes_and_goes_eagerly(server):
    comes_and_goes(server, "range,roundrobin")


@test
def a_librdkafka_member_comes_and_goes_cooperatively(server):
    comes_and_goes(server, "cooperative-sticky")


@test
def a_killed_member_is_dropped_after_its_session(server):
    topic(server, "t", 4)
    members = [Member(server, "g", "t", session_timeout_ms=2000) for _ in range(2)]
    try:
        until(lambda: shared(members, 4), "shared")
        members[1].end(signal.SIGKILL)
        began = time.monotonic()
        produce(server, "t", 4, 0, 100)
        until(lambda: shared(members[:1], 4), "taken over")
        assert time.monotonic() - began > 1, "dropped before its session ended"
        until(lambda: set(members[0].values + members[1].values) == set(range(100)), "read")
        assert server.metrics()["holdfast_group_members_expired_total"] >= 1
    finally:
        for m in members:
            m.end(signal.SIGKILL)


@test
def a_static_member_comes_back_to_its_partitions_without_a_rebalance(server):
    topic(server, "t", 4)
    ids = ("one", "two")
    members = [Member(server, "g", "t", group_instance_id=i, session_timeout_ms=20000) for i in ids]
    try:
        until(lambda: shared(members, 4), "shared")
        held, before = set(members[1].partitions), server.metrics()["holdfast_group_rebalances_total"]
        members[1].end()  # static: says no goodbye
        members[1] = Member(server, "g", "t", group_instance_id="two", session_timeout_ms=20000)
        until(lambda: members[1].partitions, "back")
        assert members[1].partitions == held
        assert server.metrics()["holdfast_group_rebalances_total"] == before
    finally:
        for m in members:
            m.end(signal.SIGKILL)


@test
def members_outlive_the_servers_death_and_offsets_never_go_back(server):
    topic(server, "t", 4)
    server.listen = server.kafka  # the same port after each start
    members = [Member(server, "g", "t") for _ in range(2)]
    last = [-1] * 4
    try:
        for i in range(3):
            until(lambda: shared(members, 4), "shared")
            produce(server, "t", 4, 200 * i, 200 * (i + 1))
            until(lambda: set(members[0].values + members[1].values) >= set(range(200 * (i + 1))), "read")
            now = committed(server, "g", "t", 4)
            server.stop(signal.SIGKILL)
            server.start()
            then = committed(server, "g", "t", 4)
            assert all(b >= a >= l for l, a, b in zip(last, now, then)), (last, now, then)
            last = then
        read = [1 + max(o for m in members for o in m.offsets.get(p, [-1])) for p in range(4)]
        until(lambda: committed(server, "g", "t", 4) == read, "committed")  # offsets jump when the server was killed
    finally:
        for m in members:
            m.end(signal.SIGKILL)


PYTHON_MEMBER = """
import sys, threading
from kafka import KafkaConsumer
server, version, support = sys.argv[1:4]
sys.path.append(support)
from until import until
import kafka
assert kafka.__version__.startswith(version), kafka.__version__
seen, lock = set(), threading.Lock()

def member(stop, partitions):
    c = KafkaConsumer(bootstrap_servers=server, group_id="py" + version, auto_offset_reset="earliest",
                      session_timeout_ms=6000, heartbeat_interval_ms=200, auto_commit_interval_ms=200)
    c.partitions_for_topic("t")  # 3.0.12 assigns nothing, for good, when it leads before it has the topic's metadata
    c.subscribe(["t"])
    while not stop.is_set():
        for batch in c.poll(timeout_ms=100).values():
            with lock:
                seen.update(int(r.value) for r in batch)
        partitions.clear()
        partitions.update(p.partition for p in c.assignment())
    c.close()

def start():
    stop, partitions = threading.Event(), set()
    t = threading.Thread(target=member, args=(stop, partitions), daemon=True)
    t.start()
    return stop, partitions, t

one = start()
until(lambda: len(one[1]) == 4 and len(seen) == 100, "alone")
two = start()
until(lambda: len(one[1]) == 2 and len(two[1]) == 2, "shared")
two[0].set(); two[2].join()
until(lambda: len(one[1]) == 4, "alone again")
one[0].set(); one[2].join()
assert len(seen) == 100
print("ok")
"""


def python_members(server, version, environment):
    topic(server, "t", 4)
    produce(server, "t", 4, 0, 100)
    run = subprocess.run([sys.executable, "-c", PYTHON_MEMBER, server.kafka, version, support], env=environment,
                         capture_output=True, text=True, timeout=400)
    assert run.stdout == "ok\n", run.stderr[-2000:]
    assert committed(server, "py" + version, "t", 4) == [25] * 4


@test
def python3_kafka_members_share_and_hand_back(server):
    python_members(server, "2.", dict(os.environ, PYTHONDONTWRITEBYTECODE="1"))


@only_when_named  # 3.0.12 on a busy machine drops a SyncGroup answer, never beats again, and goes on fetching
def kafka_python_3_members_share_and_hand_back(server):
    python_members(server, "3.", dict(os.environ, PYTHONPATH=os.path.join(clients, "python"),
                                      PYTHONDONTWRITEBYTECODE="1"))


@test
def kafkajs_members_share_and_hand_back(server):
    topic(server, "t", 4)
    environment = dict(os.environ, NODE_PATH=os.path.join(clients, "js", "node_modules"), KAFKAJS_NO_PARTITIONER_WARNING="1")
    run = subprocess.run(["node", os.path.join(here, "js", "group.js"), server.kafka, "t", "js", "200"], env=environment,
                         timeout=120, capture_output=True, text=True)
    assert run.stdout == "ok 600\n", (run.returncode, run.stderr[-2000:], run.stdout)


@test
def a_consumer_without_membership_commits_and_reads_its_offsets(server):
    topic(server, "t", 2)
    produce(server, "t", 2, 0, 20)
    consumer = KafkaConsumer(bootstrap_servers=server.kafka, group_id="simple", enable_auto_commit=False)
    p0, p1 = TopicPartition("t", 0), TopicPartition("t", 1)
    consumer.assign([p0, p1])
    assert consumer.committed(p0) is None
    consumer.commit({p0: OffsetAndMetadata(7, "where I was")})
    consumer.close()
    server.stop(signal.SIGKILL)
    server.start()
    consumer = KafkaConsumer(bootstrap_servers=server.kafka, group_id="simple", enable_auto_commit=False)
    consumer.assign([p0, p1])
    assert consumer.committed(p0, metadata=True) == OffsetAndMetadata(7, "where I was")
    assert consumer.committed(p1) is None
    consumer.close()


@test
def librdkafka_is_told_all_offsets_of_a_group(server):
    """It asks in flexible version 7 with three bytes too many (2.0), or in 8 without (later)."""
    def told(group):
        run = subprocess.run([offsets_binary, server.kafka, group], capture_output=True, text=True, timeout=60)
        assert run.returncode == 0, (run.stderr, server.log()[-1000:])
        return sorted(run.stdout.splitlines())

    for name in ("t", "u"):
        topic(server, name, 2)
        produce(server, name, 2, 0, 20)
    consumer = KafkaConsumer(bootstrap_servers=server.kafka, group_id="g", enable_auto_commit=False)
    at = {TopicPartition("t", 0): 3, TopicPartition("t", 1): 4, TopicPartition("u", 1): 5}
    consumer.assign(list(at))
    consumer.commit({p: OffsetAndMetadata(offset, "") for p, offset in at.items()})
    consumer.close()
    assert told("g") == ["t 0 3", "t 1 4", "u 1 5"]
    assert told("unknown") == []
    assert server.metrics()["holdfast_frames_refused_total"] == 0


@test
def groups_are_listed_described_and_deleted(server):
    topic(server, "t", 2)
    produce(server, "t", 2, 0, 10)
    admin = KafkaAdminClient(bootstrap_servers=server.kafka)
    member = Member(server, "g", "t", client_id="me")
    try:
        until(lambda: len(member.values) == 10, "read")
        until(lambda: committed(server, "g", "t", 2) == [5, 5], "committed")
        assert ("g", "consumer") in admin.list_consumer_groups()
        group, = admin.describe_consumer_groups(["g"])
        assert group.state == "Stable" and group.protocol == "range", group
        assert len(group.members) == 1 and group.members[0].client_id == "me", group
        assert group.members[0].client_host == "/127.0.0.1", group
        assert [(t, sorted(p)) for t, p in group.members[0].member_assignment.assignment] == [("t", [0, 1])]
        (_, error), = admin.delete_consumer_groups(["g"])
        assert error is kafka.errors.NonEmptyGroupError, error
        member.end()
        results = dict(admin.delete_consumer_groups(["g", "unknown"]))
        assert results["g"] is kafka.errors.NoError, results
        assert results["unknown"] is kafka.errors.GroupIdNotFoundError, results
        assert committed(server, "g", "t", 2) == [-1, -1]
        group, = admin.describe_consumer_groups(["g"])
        assert group.state == "Dead", group
    finally:
        member.end(signal.SIGKILL)
    admin.close()


@test
def a_deleted_topics_offsets_do_not_wait_for_its_successor(server):
    topic(server, "t", 2)
    produce(server, "t", 2, 0, 10)
    member = Member(server, "g", "t")
    until(lambda: committed(server, "g", "t", 2) == [5, 5], "committed")
    member.end()
    admin = KafkaAdminClient(bootstrap_servers=server.kafka)
    admin.delete_topics(["t"])
    admin.close()
    topic(server, "t", 2)
    assert committed(server, "g", "t", 2) == [-1, -1]
    server.stop(signal.SIGKILL)
    server.start()
    assert committed(server, "g", "t", 2) == [-1, -1]


# They spend their time waiting.
sys.exit(run_tests(sys.argv[5:], lambda folder: Holdfast(binary, folder), side_by_side=4))

#!/usr/bin/python3
"""Compacted topics, seen by other people's clients: what is left of many updates in every codec, after kill -9 in the
middle, and under a reader that is being sent what goes.

    compaction.py BINARY FOLDER_OF_FETCHED_CLIENTS [test ...]
"""

import os
import random
import subprocess
import sys
import time

here = os.path.dirname(os.path.abspath(__file__))
binary, clients = sys.argv[1:3]
sys.path[:0] = [os.path.join(clients, "python"), os.path.join(here, "..", "support")]
sys.dont_write_bytecode = True
from cases import run_tests, test  # noqa: E402
from holdfast import Holdfast  # noqa: E402
from kafka import KafkaConsumer, KafkaProducer, TopicPartition  # noqa: E402
from kafka.admin import KafkaAdminClient, NewTopic  # noqa: E402
from slow_reader import SlowReader  # noqa: E402
from until import until  # noqa: E402

MIB = 1 << 20
SETTINGS = {"cleanup.policy": "compact", "segment.bytes": str(MIB), "min.cleanable.dirty.ratio": "0.01",
            "max.message.bytes": str(MIB)}


def create(server, topic, **more):
    admin = KafkaAdminClient(bootstrap_servers=server.kafka)
    configs = SETTINGS | {name.replace("_", "."): value for name, value in more.items()}
    admin.create_topics([NewTopic(topic, 1, 1, topic_configs=configs)])
    admin.close()


class Table:
    """What was written: each record by its offset, and what the keys should be in the end."""

    def __init__(self, topic, seed=1):
        self.topic, self.rng = topic, random.Random(seed)
        self.records, self.now, self.count = {}, {}, 0

    def update(self, server, count, keys, codec="none", size=120, name="key"):
        """kcat (librdkafka) writes them, acks=all; an empty value is none: it deletes its key."""
        lines = []
        for _ in range(count):
            key = f"{name}-{self.rng.randrange(keys)}"
            deletes = self.rng.random() < 0.1
            value = "" if deletes else f"{self.count:08d}" + self.rng.choice("abcdef") * size
            self.records[self.count] = (key, value)
            self.now[key] = value
            self.count += 1
            lines.append(f"{key}\t{value}")
        run = subprocess.run(["kcat", "-P", "-b", server.kafka, "-t", self.topic, "-p", "0", "-K", "\t", "-Z", "-z", codec, "-X",
                              "acks=all", "-X", "queue.buffering.max.ms=5", "-X", "batch.num.messages=100"],
                             input="\n".join(lines) + "\n", text=True, capture_output=True, timeout=120)
        assert run.returncode == 0, run.stderr

    def check(self, records):
        """Records as a reader got them: (offset, key, value)."""
        last, latest = -1, {}
        for offset, key, value in records:
            assert offset > last, f"{offset} behind {last}"
            assert self.records[offset] == (key, value), (offset, key, value, self.records[offset])
            last, latest[key] = offset, value
        for key, value in self.now.items():
            assert latest.get(key, "") == value, (key, value, latest.get(key))
        return len(records)


def read_with_python(server, topic):
    consumer = KafkaConsumer(bootstrap_servers=server.kafka, auto_offset_reset="earliest")
    partition = TopicPartition(topic, 0)
    consumer.assign([partition])
    consumer.seek(partition, 0)
    end, found = consumer.end_offsets([partition])[partition], []
    until(lambda: [found.extend(r) for r in consumer.poll(500).values()] is not None and
          consumer.position(partition) >= end, "the end")
    consumer.close()
    return [(r.offset, r.key.decode(), (r.value or b"").decode()) for r in found]


def read_with_kcat(server, topic):
    run = subprocess.run(["kcat", "-C", "-b", server.kafka, "-t", topic, "-p", "0", "-o", "beginning", "-e", "-q", "-f",
                          "%o\t%k\t%s\n"], text=True, capture_output=True, timeout=120)
    assert run.returncode == 0, run.stderr
    lines = [line.split("\t") for line in run.stdout.splitlines()]
    return [(int(offset), key, value) for offset, key, value in lines]


def stored(server, topic):
    folder = os.path.join(server.data, "topics", topic + "-0")
    return sum(os.path.getsize(os.path.join(folder, f)) for f in os.listdir(folder) if f.endswith(".log"))


def restart(server, how):
    """A start ends with a checkpoint: what a clean stop left in closed segments may be compacted from then on."""
    server.stop(how)
    server.start()


def compactions(server):
    return server.metrics()["holdfast_compactions_total"]


# ---- what is left ----

@test
def the_latest_record_of_each_key_is_left_in_every_codec(server):
    table = Table("table")
    create(server, "table")
    for codec in ("gzip", "snappy", "lz4", "zstd"):
        table.update(server, 8000, 200, codec, name=codec)  # what is left of each is in its codec
    table.update(server, 20000, 200)
    restart(server, 15)
    until(lambda: compactions(server) > 0, "compaction")
    records = read_with_kcat(server, "table")
    left = table.check(records)
    assert left < 10000, left
    for codec in ("gzip", "snappy", "lz4", "zstd"):
        assert 100 < sum(1 for r in records if r[1].startswith(codec)) < 1000, codec
    restart(server, 9)
    assert table.check(read_with_kcat(server, "table")) <= left


@test
def clients_of_two_kinds_see_the_same(server):
    """python3-kafka, which has no other codecs here."""
    table = Table("both")
    create(server, "both")
    table.update(server, 8000, 200, "gzip", name="gzip")
    table.update(server, 20000, 200)
    restart(server, 15)
    until(lambda: compactions(server) > 0, "compaction")
    left = table.check(read_with_python(server, "both"))
    assert left < 10000 and table.check(read_with_kcat(server, "both")) == left, left


@test
def deletions_go_after_their_time_and_offsets_stay(server):
    create(server, "deleted", delete_retention_ms="0")
    table = Table("deleted")
    table.update(server, 10000, 100)
    for round_ in range(3):  # the first writes down when they may go
        table.update(server, 10000, 100)
        restart(server, 15)
        until(lambda: compactions(server) > 0, "compaction")
    records = read_with_python(server, "deleted")
    table.check(records)
    closed = [r for r in records if r[0] < 10000]
    assert not [r for r in closed if r[2] == ""], "a deletion is left"
    assert records[-1][0] == 39999


@test
def a_record_without_key_is_refused(server):
    create(server, "keyed")
    for compression in (None, "gzip"):
        producer = KafkaProducer(bootstrap_servers=server.kafka, acks="all", compression_type=compression)
        try:
            producer.send("keyed", value=b"no key").get(timeout=60)
            raise AssertionError("it was taken")
        except Exception as e:  # noqa: BLE001 (whichever class the library chooses)
            assert "nvalidRecord" in type(e).__name__ or "87" in str(e), repr(e)
        producer.close()
        producer = KafkaProducer(bootstrap_servers=server.kafka, acks="all", compression_type=compression)
        assert producer.send("keyed", key=b"k", value=b"v").get(timeout=60).offset >= 0
        producer.close()


# ---- in the middle of it ----

@test
def killed_in_the_middle_it_loses_nothing_and_brings_nothing_back(server):
    create(server, "struck", delete_retention_ms="100")
    table, rng = Table("struck"), random.Random(5)
    for _ in range(8):
        table.update(server, 9000, 300, rng.choice(("none", "lz4", "zstd")))
        restart(server, 15)
        time.sleep(rng.random() * 0.1)  # it is at work now: the kill strikes anywhere
        restart(server, 9)
        table.check(read_with_kcat(server, "struck"))
    table.update(server, 18000, 300)
    restart(server, 15)
    until(lambda: compactions(server) > 0, "compaction")
    table.check(read_with_kcat(server, "struck"))
    names = os.listdir(os.path.join(server.data, "topics", "struck-0"))
    assert not [n for n in names if n.endswith(".swap")], names
    assert stored(server, "struck") < 12 * MIB


@test
def what_is_being_sent_stays_whole_though_it_is_compacted(server):
    """A raw reader asks for 8 MB, reads a little of it, waits until that was compacted, and reads the rest."""
    create(server, "sent", segment_bytes=str(16 * MIB), cleanup_policy="delete")
    table = Table("sent")
    table.update(server, 22000, 10, size=1000)
    restart(server, 15)
    with SlowReader(server, "sent", 8_000_000) as reader:
        subprocess.run([binary, "topic", "alter", "sent", "--set", "cleanup.policy=compact", "--server", server.kafka],
                       check=True, timeout=60)
        until(lambda: compactions(server) > 0, "compaction")
        assert stored(server, "sent") < 12 * MIB
        _, _, _, records = reader.rest()
    for seen, record in enumerate(records):
        value = (record.value or b"").decode()
        assert record.offset == seen and table.records[seen] == (record.key.decode(), value), f"record {seen}"
    assert len(records) > 6000, len(records)
    table.check(read_with_kcat(server, "sent"))


sys.exit(run_tests(sys.argv[3:], lambda folder: Holdfast(binary, folder, "--log.retention.check.interval.ms=20ms")))

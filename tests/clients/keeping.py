#!/usr/bin/python3
"""What topics keep, seen by other people's clients: settings, DeleteRecords, retention by time and size, readers in the
middle of what goes.

    keeping.py BINARY FOLDER_OF_FETCHED_CLIENTS [test ...]
"""

import os
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
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient, NewPartitions, NewTopic  # noqa: E402
from kafka.protocol.consumer.offsets import IsolationLevel, OffsetSpec  # noqa: E402
from slow_reader import SlowReader  # noqa: E402
from until import until  # noqa: E402

MIB = 1 << 20


def command(server, *args, check=True):
    run = subprocess.run([binary, "topic", *args, "--server", server.kafka], capture_output=True, text=True, timeout=60)
    assert not check or run.returncode == 0, (args, run.stderr)
    return run


def create(server, topic, **settings):
    sets = [f"--set={name.replace('_', '.')}={value}" for name, value in settings.items()]
    command(server, "create", topic, *sets)


def admin(server):
    return KafkaAdminClient(bootstrap_servers=server.kafka)


def fill(server, topic, first, count, size=100_000):
    """Records whose value begins with their number; numbers are offsets in a topic that is only filled by this."""
    with_acks = KafkaProducer(bootstrap_servers=server.kafka, acks="all", linger_ms=0, batch_size=0)
    sent = [with_acks.send(topic, value=b"%09d" % n + b"x" * (size - 9)) for n in range(first, first + count)]
    for future in sent:
        future.get(timeout=60)
    with_acks.close()


def bounds(server, topic):
    consumer = KafkaConsumer(bootstrap_servers=server.kafka)
    partition = TopicPartition(topic, 0)
    found = consumer.beginning_offsets([partition])[partition], consumer.end_offsets([partition])[partition]
    consumer.close()
    return found


def settings_of(server, topic):
    lines = [line.split("\t") for line in command(server, "describe", topic, "--settings").stdout.splitlines()]
    return {line[1].split("=", 1)[0]: (line[1].split("=", 1)[1], line[2]) for line in lines}


# ---- settings ----

@test
def settings_are_described_and_altered_by_the_admin_client(server):
    with_admin = admin(server)
    with_admin.create_topics([NewTopic("told", 1, 1, topic_configs={"retention.ms": "3600000"})])
    resource = ConfigResource(ConfigResourceType.TOPIC, "told")
    assert settings_of(server, "told")["retention.ms"] == ("3600000", "topic")
    described = str(with_admin.describe_configs([resource]))
    assert "retention.ms" in described and "3600000" in described, described
    with_admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, "told", configs={"segment.bytes": "2097152"})])
    now = settings_of(server, "told")
    assert now["segment.bytes"] == ("2097152", "topic"), now
    with_admin.close()


@test
def settings_survive_a_kill(server):
    create(server, "kept", cleanup_policy="compact", retention_ms="5h")
    command(server, "alter", "kept", "--set", "retention.bytes=7MiB", "--unset", "cleanup.policy")
    server.stop(9)
    server.start()
    now = settings_of(server, "kept")
    assert now["retention.bytes"] == ("7340032", "topic") and now["retention.ms"] == ("18000000", "topic"), now
    assert now["cleanup.policy"] == ("delete", "default"), now


@test
def bad_settings_name_key_value_and_what_is_allowed(server):
    create(server, "strict")
    for setting, allowed in (("segment.bytes=7", "1048576 to"), ("retention.ms=-2", "-1 for no limit"),
                             ("cleanup.policy=burn", "delete, compact"), ("min.cleanable.dirty.ratio=2", "0 to 1"),
                             ("message.timestamp.type=now", "CreateTime or")):
        for args in (("alter", "strict"), ("create", "strict2")):
            run = command(server, *args, "--set", setting, check=False)
            name, value = setting.split("=")
            assert run.returncode == 1 and name in run.stderr and f'"{value}"' in run.stderr and allowed in run.stderr, run
    assert "no setting" in command(server, "alter", "strict", "--set", "nope=1", check=False).stderr


@test
def topics_of_ours_keep_what_they_need_and_dead_letters_everything(server):
    for setting in ("retention.ms=1", "retention.bytes=1", "cleanup.policy=compact", "segment.ms=1", "max.message.bytes=1024"):
        run = command(server, "alter", "holdfast.delay", "--set", setting, check=False)
        assert run.returncode == 1 and "holdfast." in run.stderr, run
    with_admin = admin(server)
    refused = refusal(with_admin, "holdfast.delay", 0)
    assert "olicy" in refused, refused
    create(server, "dlq.some")
    now = settings_of(server, "dlq.some")
    assert now["retention.ms"][0] == "-1" and now["retention.bytes"][0] == "-1", now
    with_admin.close()


def refusal(with_admin, topic, offset):
    try:
        return str(with_admin.delete_records({TopicPartition(topic, 0): offset}))
    except Exception as e:  # noqa: BLE001 (whichever class the library chooses)
        return f"{type(e).__name__} {e}"


# ---- partitions ----

def partitions_of(server, topic):
    return len(command(server, "describe", topic).stdout.splitlines())


def refusal_to_grow(with_admin, topic, count):
    try:
        return str(with_admin.create_partitions({topic: NewPartitions(count)}))
    except Exception as e:  # noqa: BLE001 (whichever class the library chooses)
        return f"{type(e).__name__} {e}"


@test
def a_topic_grows_and_its_group_reads_what_is_added(server):
    create(server, "grows")
    consumer = KafkaConsumer("grows", bootstrap_servers=server.kafka, group_id="growing", auto_offset_reset="earliest",
                             metadata_max_age_ms=300)
    fill(server, "grows", 0, 5, size=20)
    with_admin = admin(server)
    with_admin.create_partitions({"grows": NewPartitions(3)})
    assert partitions_of(server, "grows") == 3
    producer = KafkaProducer(bootstrap_servers=server.kafka, acks="all")
    places = [producer.send("grows", value=b"%d" % p, partition=p).get(timeout=60) for p in range(3)]
    assert [(place.partition, place.offset) for place in places] == [(0, 5), (1, 0), (2, 0)], places
    seen = set()

    def all_seen():
        for batch in consumer.poll(timeout_ms=200).values():
            seen.update((r.partition, r.offset) for r in batch)
        return len(seen) == 8
    until(all_seen, "the group reads all three partitions")
    consumer.close()
    producer.close()
    with_admin.close()
    server.stop(9)
    server.start()
    assert partitions_of(server, "grows") == 3
    with_admin = admin(server)
    refused = refusal_to_grow(with_admin, "grows", 3)
    assert "can only have more" in refused, refused
    refused = refusal_to_grow(with_admin, "holdfast.delay", 9)
    assert "holdfast." in refused, refused
    command(server, "alter", "grows", "--partitions", "5", "--set", "retention.ms=5h")
    assert partitions_of(server, "grows") == 5 and settings_of(server, "grows")["retention.ms"][0] == "18000000"
    refused = command(server, "alter", "grows", "--partitions", "4", check=False)
    assert refused.returncode == 1 and "can only have more, not 4" in refused.stderr, refused
    with_admin.close()


# ---- settings that act on what is written, changed while the server runs ----

def segments(server, topic):
    folder = os.path.join(server.data, "topics", topic + "-0")
    return {int(f[:20]): os.path.getsize(os.path.join(folder, f)) for f in os.listdir(folder) if f.endswith(".log")}


@test
def segments_follow_segment_bytes_and_segment_ms(server):
    create(server, "rolled", segment_bytes=4 * MIB)
    fill(server, "rolled", 0, 60)
    assert sorted(segments(server, "rolled")) == [0, 41], segments(server, "rolled")
    command(server, "alter", "rolled", "--set", f"segment.bytes={MIB}")
    fill(server, "rolled", 60, 40)
    assert sorted(segments(server, "rolled")) == [0, 41, 60, 70, 80, 90], segments(server, "rolled")
    command(server, "alter", "rolled", "--set", "segment.ms=50")
    until(lambda: 100 in segments(server, "rolled"), "a segment that is not full is closed")
    assert bounds(server, "rolled") == (0, 100), "closing deletes nothing"


@test
def the_largest_message_is_the_topics_own(server):
    create(server, "large")
    create(server, "other")
    producer = KafkaProducer(bootstrap_servers=server.kafka, acks="all", max_request_size=8 * MIB, linger_ms=0,
                             enable_idempotence=False)

    def takes(topic, size):
        try:
            return producer.send(topic, b"x" * size).get(timeout=60).offset >= 0
        except Exception as e:  # noqa: BLE001 (whichever class the library chooses)
            assert "TooLarge" in type(e).__name__, repr(e)
            return False

    assert takes("large", 500_000) and not takes("large", 3_000_000)
    command(server, "alter", "large", "--set", "max.message.bytes=100KiB")
    assert not takes("large", 500_000) and takes("large", 50_000) and takes("other", 500_000)
    command(server, "alter", "large", "--set", "max.message.bytes=4MiB")
    assert takes("large", 3_000_000) and not takes("other", 3_000_000)
    producer.close()


@test
def timestamps_are_the_producers_or_the_logs_as_the_topic_says(server):
    create(server, "timed", retention_ms=-1)
    producer = KafkaProducer(bootstrap_servers=server.kafka, acks="all")
    begin_ms = int(time.time() * 1000)
    told = [producer.send("timed", b"theirs", timestamp_ms=1000).get(timeout=60)]
    command(server, "alter", "timed", "--set", "message.timestamp.type=LogAppendTime")
    told.append(producer.send("timed", b"the log's", timestamp_ms=1000).get(timeout=60))
    command(server, "alter", "timed", "--unset", "message.timestamp.type")
    told.append(producer.send("timed", b"theirs again", timestamp_ms=2000).get(timeout=60))
    producer.close()
    consumer = KafkaConsumer("timed", bootstrap_servers=server.kafka, auto_offset_reset="earliest",
                             consumer_timeout_ms=30000)
    seen = [next(consumer) for _ in range(3)]
    consumer.close()
    assert [r.timestamp_type for r in seen] == [0, 1, 0], seen
    assert (seen[0].timestamp, seen[2].timestamp) == (1000, 2000), seen
    assert begin_ms - 1000 <= seen[1].timestamp <= time.time() * 1000 + 1000, seen
    assert [t.timestamp for t in told] == [r.timestamp for r in seen], told


# ---- offsets ----

def offset_of(with_admin, topic, spec, isolation=IsolationLevel.READ_UNCOMMITTED):
    partition = TopicPartition(topic, 0)
    return with_admin.list_partition_offsets({partition: spec}, isolation_level=isolation)[partition]


@test
def offsets_are_found_by_time(server):
    create(server, "found", segment_bytes=MIB, retention_ms=-1)
    times = [1_000_000 + (n * 37) % 1000 for n in range(3000)]  # neither rising nor all different
    producer = KafkaProducer(bootstrap_servers=server.kafka, acks="all", compression_type="gzip", linger_ms=20)
    for n, at in enumerate(times):
        producer.send("found", os.urandom(1000), timestamp_ms=at)
    producer.flush(60)
    producer.close()
    consumer = KafkaConsumer(bootstrap_servers=server.kafka)
    partition = TopicPartition("found", 0)
    assert len(segments(server, "found")) > 1

    def look():
        for ms in (0, 1_000_000, 1_000_037, 1_000_500, 1_000_998, 1_000_999):
            first = next(n for n, at in enumerate(times) if at >= ms)
            found = consumer.offsets_for_times({partition: ms})[partition]
            assert (found.offset, found.timestamp) == (first, times[first]), (ms, first, found)
        assert consumer.offsets_for_times({partition: 1_001_000})[partition] is None
        with_admin = admin(server)
        latest = offset_of(with_admin, "found", OffsetSpec.MAX_TIMESTAMP)
        assert (latest.offset, latest.timestamp) == (times.index(max(times)), max(times)), latest
        with_admin.close()

    look()
    server.listen = server.kafka
    server.stop(9)
    server.start()
    look()
    with_admin = admin(server)
    with_admin.delete_records({partition: 2500})
    with_admin.close()
    first = next(n for n, at in enumerate(times) if n >= 2500 and at >= 1_000_500)
    assert consumer.offsets_for_times({partition: 1_000_500})[partition].offset == first
    consumer.close()


@test
def ends_are_the_high_watermark_and_their_epochs_those_of_the_batches(server):
    create(server, "ends")
    fill(server, "ends", 0, 5, size=100)
    with_admin = admin(server)
    for isolation in IsolationLevel.READ_UNCOMMITTED, IsolationLevel.READ_COMMITTED:
        found = offset_of(with_admin, "ends", OffsetSpec.LATEST, isolation)
        assert (found.offset, found.timestamp) == (5, -1), found
    first = offset_of(with_admin, "ends", OffsetSpec.EARLIEST)
    assert (first.offset, first.timestamp) == (0, -1), first
    with_admin.close()
    producer = KafkaProducer(bootstrap_servers=server.kafka, acks=1, enable_idempotence=False)
    producer.send("ends", b"may be lost with the power").get(timeout=60)
    producer.close()
    server.stop(9)
    server.start()
    with_admin = admin(server)
    start, end = bounds(server, "ends")
    assert start == 0 and end > 6, "after a kill offsets go on above all that may have been seen"
    before, after = offset_of(with_admin, "ends", OffsetSpec.EARLIEST), offset_of(with_admin, "ends", OffsetSpec.LATEST)
    assert (before.offset, after.offset) == (0, end) and before.leader_epoch < after.leader_epoch, (before, after)
    with_admin.close()


# ---- what goes ----

@test
def delete_records_moves_the_start_for_good(server):
    create(server, "cut")
    fill(server, "cut", 0, 20, size=1000)
    with_admin = admin(server)
    with_admin.delete_records({TopicPartition("cut", 0): 7})
    assert bounds(server, "cut") == (7, 20)
    with_admin.delete_records({TopicPartition("cut", 0): 3})
    assert bounds(server, "cut") == (7, 20), "it went back"
    assert "ange" in refusal(with_admin, "cut", 21)
    server.stop(9)
    server.start()
    assert bounds(server, "cut")[0] == 7
    consumer = KafkaConsumer("cut", bootstrap_servers=server.kafka, auto_offset_reset="earliest",
                             consumer_timeout_ms=15000)
    assert next(consumer).offset == 7
    consumer.close()
    with_admin.close()


def log_dirs(server, asked=None):
    with_admin = admin(server)
    (found,) = with_admin.describe_log_dirs(asked)
    with_admin.close()
    (folder,) = found["log_dirs"]
    return folder, {(t["name"], p["partition_index"]): p["partition_size"] for t in folder["topics"] for p in t["partitions"]}


@test
def the_log_dirs_tell_what_each_partition_keeps(server):
    create(server, "kept", segment_bytes=MIB)
    command(server, "alter", "kept", "--partitions", "2")
    fill(server, "kept", 0, 40)
    folder, sizes = log_dirs(server)
    data = os.path.join(server.folder, folder["log_dir"])
    for number in 0, 1:
        at = os.path.join(data, "topics", f"kept-{number}")
        ends = [os.path.getsize(os.path.join(at, name)) for name in sorted(os.listdir(at)) if name.endswith(".log")]
        assert sum(ends[:-1]) <= sizes["kept", number] <= sum(ends), (sizes, ends)
    assert sizes["kept", 0] + sizes["kept", 1] > 40 * 100_000, sizes
    assert ("holdfast.delay", 0) in sizes and 0 < folder["usable_bytes"] < 1 << 62, folder
    server.stop(9)
    server.start()
    assert log_dirs(server, {"kept": [1, 7], "none": [0]})[1] == {("kept", 1): sizes["kept", 1]}


@test
def size_and_time_let_whole_segments_go(server):
    create(server, "sized", segment_bytes=MIB)
    fill(server, "sized", 0, 60)
    command(server, "alter", "sized", "--set", f"retention.bytes={2 * MIB}")
    start, end = until(lambda: (lambda b: b if b[0] > 0 else None)(bounds(server, "sized")), "retention.bytes")
    assert end == 60 and 20 <= start <= 45, (start, end)
    assert start % 10 == 0, "a part of a segment went"  # ten records of 100,000 bytes fill a segment of 1 MiB
    command(server, "alter", "sized", "--set", "retention.ms=1", "--unset", "retention.bytes")
    until(lambda: bounds(server, "sized") == (60, 60), "retention.ms lets the open segment go too")
    fill(server, "sized", 60, 1, size=10)


# ---- readers in the middle of it ----

@test
def what_is_being_sent_stays_whole_though_it_is_deleted(server):
    """A raw reader asks for 8 MB, reads a little of it, waits until the segment is gone, and reads the rest."""
    create(server, "read", segment_bytes=16 * MIB)
    fill(server, "read", 0, 100)
    with SlowReader(server, "read", 8_000_000) as reader:
        command(server, "alter", "read", "--set", "retention.ms=1")
        until(lambda: bounds(server, "read") == (100, 100), "retention")
        high, stable, aborted, records = reader.rest()
    assert (high, stable, aborted) == (100, 100, -1)
    for seen, record in enumerate(records):
        assert record.offset == seen and record.value == b"%09d" % seen + b"x" * 99_991, f"record {seen}"
    assert len(records) == 79, len(records)


@test
def a_slow_consumer_is_overtaken_and_goes_on_at_the_start(server):
    create(server, "slow", segment_bytes=MIB, retention_bytes=3 * MIB)
    fill(server, "slow", 0, 40)
    consumer = KafkaConsumer("slow", bootstrap_servers=server.kafka, auto_offset_reset="earliest",
                             max_partition_fetch_bytes=200_000, fetch_max_bytes=200_000, consumer_timeout_ms=30000)
    seen, written = [], 40
    while written < 120:
        record = next(consumer)
        seen.append(record.offset)
        assert record.value[:9] == b"%09d" % record.offset and len(record.value) == 100_000
        fill(server, "slow", written, 20)
        written += 20
        until(lambda: bounds(server, "slow")[0] >= written - 50, "retention keeps up")
    while seen[-1] < written - 1:
        record = next(consumer)
        assert record.value[:9] == b"%09d" % record.offset and record.offset > seen[-1]
        seen.append(record.offset)
    consumer.close()
    gaps = sum(1 for a, b in zip(seen, seen[1:]) if b != a + 1)
    assert gaps > 0, "nothing was deleted under the reader"


sys.exit(run_tests(sys.argv[3:], lambda folder: Holdfast(binary, folder, "--log.retention.check.interval.ms=50ms")))

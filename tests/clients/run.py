#!/usr/bin/python3
"""Other people's clients against the server: kcat and librdkafka with every codec, python3-kafka (the distribution's),
kafka-python 3, kafkajs; by assignment, across restarts and kills.

    run.py BINARY FOLDER_OF_FETCHED_CLIENTS [test ...]
"""

import os
import subprocess
import sys
import threading
import time

here = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(here, "..", "support"))
sys.dont_write_bytecode = True
from cases import run_tests, test  # noqa: E402
from holdfast import Holdfast  # noqa: E402
from until import until  # noqa: E402
from kafka import KafkaConsumer, KafkaProducer, TopicPartition  # noqa: E402
from kafka.admin import KafkaAdminClient, NewTopic  # noqa: E402
import kafka.errors  # noqa: E402

binary, clients = sys.argv[1:3]


def kcat(server, *args, input=None):
    run = subprocess.run(["kcat", "-b", server.kafka, "-q", *args], input=input, capture_output=True, timeout=120)
    assert run.returncode == 0, (args, run.stderr.decode())
    return run.stdout.decode()


def read_all(server, topic):
    return kcat(server, "-C", "-t", topic, "-e", "-o", "beginning", "-f", "%k=%s\n").splitlines()


def consume(server, topic, count, **options):
    consumer = KafkaConsumer(bootstrap_servers=server.kafka, consumer_timeout_ms=30000, **options)
    consumer.assign([TopicPartition(topic, p) for p in consumer.partitions_for_topic(topic)])
    consumer.seek_to_beginning()
    records = []
    for record in consumer:
        records.append(record)
        if len(records) == count:
            break
    consumer.close()
    return records


@test
def kcat_produces_with_every_codec_and_reads_it_back(server):
    expected = []
    for codec in ("none", "gzip", "snappy", "lz4", "zstd"):
        lines = [f"{codec}{i}:" + "x" * 200 for i in range(300)]
        kcat(server, "-P", "-K:", "-t", "codecs", "-z", codec, input="\n".join(lines).encode())
        expected += [line.replace(":", "=") for line in lines]
    assert read_all(server, "codecs") == expected
    received = server.metrics()["holdfast_log_appended_bytes_total"]
    assert received < 5 * 300 * 200 * 0.5, f"{received}: kcat did not compress"


@test
def every_acks_is_answered_as_asked(server):
    for acks in ("0", "1", "-1"):
        kcat(server, "-P", "-t", "acks", "-X", f"request.required.acks={acks}", input=b"a\nb\nc\n")
    until(lambda: len(read_all(server, "acks")) >= 9, "what was sent without waiting")
    assert len(read_all(server, "acks")) == 9


@test
def librdkafka_produces_idempotently(server):
    kcat(server, "-P", "-K:", "-t", "idem", "-X", "enable.idempotence=true",
         input="\n".join(f"k{i}:v{i}" for i in range(1000)).encode())
    assert read_all(server, "idem") == [f"k{i}=v{i}" for i in range(1000)]


@test
def python3_kafka_produces_and_consumes(server):
    for codec in (None, "gzip"):
        producer = KafkaProducer(bootstrap_servers=server.kafka, compression_type=codec, acks="all")
        for i in range(500):
            producer.send("py", key=b"%d" % i, value=b"v" * 100, headers=[("h", b"1")])
        producer.flush()
        producer.close()
    records = consume(server, "py", 1000)
    assert [int(r.key) for r in records] == list(range(500)) * 2
    assert [r.offset for r in records] == list(range(1000))
    assert records[0].headers == [("h", b"1")]


@test
def kafka_python_3_produces_and_consumes(server):
    code = """
import sys
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
import kafka
assert kafka.__version__.startswith("3."), kafka.__version__
server = sys.argv[1]
p = KafkaProducer(bootstrap_servers=server)
for i in range(200): p.send("py3", key=b"%d" % i, value=b"v")
p.flush(); p.close()
c = KafkaConsumer(bootstrap_servers=server, consumer_timeout_ms=30000)
c.assign([TopicPartition("py3", 0)]); c.seek_to_beginning()
got = []
for r in c:
    got.append(int(r.key))
    if len(got) == 200: break
assert got == list(range(200)), got
c.close()
"""
    environment = dict(os.environ, PYTHONPATH=os.path.join(clients, "python"), PYTHONDONTWRITEBYTECODE="1")
    subprocess.run([sys.executable, "-c", code, server.kafka], env=environment, check=True, timeout=120)


@test
def kafkajs_creates_produces_lists_and_deletes(server):
    environment = dict(os.environ, NODE_PATH=os.path.join(clients, "js", "node_modules"), KAFKAJS_NO_PARTITIONER_WARNING="1")
    out = subprocess.run(["node", os.path.join(here, "js", "produce_consume.js"), server.kafka, "js", "250"],
                         env=environment, check=True, timeout=120, capture_output=True, text=True).stdout
    assert out == "ok 1000\n", out
    assert len(read_all(server, "js")) == 1000


@test
def kafkajs_keys_lie_in_the_same_partitions_directly_and_delayed(server):
    admin = KafkaAdminClient(bootstrap_servers=server.kafka)
    admin.create_topics([NewTopic(name, 7, 1) for name in ("direct", "delayed")])
    admin.close()
    environment = dict(os.environ, NODE_PATH=os.path.join(clients, "js", "node_modules"), KAFKAJS_NO_PARTITIONER_WARNING="1")
    out = subprocess.run(["node", os.path.join(here, "js", "keys.js"), server.kafka, "direct", "delayed", "1000"],
                         env=environment, check=True, timeout=120, capture_output=True, text=True).stdout
    assert out == "ok 1000\n", out
    direct, delayed = ({r.key: r.partition for r in consume(server, name, 1000)} for name in ("direct", "delayed"))
    assert len(direct) == 1000 and direct == delayed
    assert set(direct.values()) == set(range(7))


@test
def a_waiting_fetch_is_woken_by_a_produce(server):
    kcat(server, "-P", "-t", "wake", input=b"first\n")
    consumer = KafkaConsumer(bootstrap_servers=server.kafka, fetch_max_wait_ms=20000, consumer_timeout_ms=30000,
                             request_timeout_ms=30000)
    consumer.assign([TopicPartition("wake", 0)])
    consumer.seek_to_end()
    consumer.poll(timeout_ms=300)
    sent = []
    producer = KafkaProducer(bootstrap_servers=server.kafka)

    def later():
        until(lambda: server.metrics()["holdfast_fetches_waiting"] >= 1, "a fetch that waits")
        sent.append(time.monotonic())
        producer.send("wake", b"second").get(30)

    thread = threading.Thread(target=later)
    thread.start()
    assert next(consumer).value == b"second"
    late = time.monotonic() - sent[0]
    thread.join()
    assert late < 10, late  # the fetch waits for 20 s
    assert server.metrics()["holdfast_fetches_waiting"] <= 1
    consumer.close()
    producer.close()


@test
def errors_are_the_ones_clients_expect(server):
    admin = KafkaAdminClient(bootstrap_servers=server.kafka)

    def refused(error, function, *args, **kw):
        try:
            function(*args, **kw)
        except error:
            return
        raise AssertionError(f"{error.__name__} did not come")

    admin.create_topics([NewTopic("there", 2, 1)])
    refused(kafka.errors.TopicAlreadyExistsError, admin.create_topics, [NewTopic("there", 2, 1)])
    refused(kafka.errors.InvalidTopicError, admin.create_topics, [NewTopic("bad name", 1, 1)])
    refused(kafka.errors.InvalidTopicError, admin.create_topics, [NewTopic("holdfast.mine", 1, 1)])
    refused(kafka.errors.InvalidReplicationFactorError, admin.create_topics, [NewTopic("three", 1, 3)])
    refused(kafka.errors.InvalidPartitionsError, admin.create_topics, [NewTopic("none", 0, 1)])
    refused(kafka.errors.InvalidConfigurationError, admin.create_topics,
            [NewTopic("odd", 1, 1, topic_configs={"no.such": "1"})])
    refused(kafka.errors.UnknownTopicOrPartitionError, admin.delete_topics, ["missing"])
    refused(kafka.errors.InvalidTopicError, admin.delete_topics, ["holdfast.delay"])
    producer = KafkaProducer(bootstrap_servers=server.kafka, max_request_size=8 << 20)
    refused(kafka.errors.MessageSizeTooLargeError, lambda: producer.send("there", b"x" * (3 << 20)).get(30))
    producer.send("there", b"small").get(30)  # the connection lives
    refused(kafka.errors.TopicAuthorizationFailedError, lambda: producer.send("holdfast.rejected", b"x").get(30))
    producer.close()
    admin.delete_topics(["there"])
    admin.close()
    assert "there" not in kcat(server, "-L").replace('"holdfast', "")


@test
def what_was_acknowledged_survives_a_stop_and_a_kill(server):
    sent = 0
    for how in (15, 9, 9, 15):
        lines = [f"k{i}:v{i}" for i in range(sent, sent + 500)]
        kcat(server, "-P", "-K:", "-t", "keep", input="\n".join(lines).encode())
        sent += 500
        status = server.stop(how)
        assert status == (0 if how == 15 else -9), status
        server.start()
        got = [line.split("=")[0] for line in read_all(server, "keep")]
        assert got == [f"k{i}" for i in range(sent)], (how, len(got), sent)


@test
def refused_records_are_named_in_one_log_line(server):
    run = subprocess.run(["kcat", "-b", server.kafka, "-P", "-t", "holdfast.delay", "-H", "hf-topic=t", "-H",
                          "hf-delay=1s", "-H", "hf-due=1"], input=b"x\n", capture_output=True, timeout=120)
    assert run.returncode != 0 and b"failed to validate record" in run.stderr, run
    line = [x for x in server.log().splitlines() if "record_refused" in x]
    assert len(line) == 1 and "topic=holdfast.delay" in line[0] and "record=0" in line[0], line
    assert "client=127.0.0.1:" in line[0] and 'client_id="rdkafka"' in line[0], line


sys.exit(run_tests(sys.argv[3:], lambda folder: Holdfast(binary, folder)))

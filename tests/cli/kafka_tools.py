#!/usr/bin/python3 -B
"""Beside a real Apache Kafka: its DumpLogSegments reads what a clean stop leaves, its partition folder is adopted and served.

    HF_TEST_KAFKA_CLASSPATH='/opt/kafka/libs/*' kafka_tools.py BINARY

Without that variable, java or kcat the test is skipped (exit status 77).
"""

import glob
import os
import re
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from holdfast import Holdfast  # noqa: E402
from servers import free_port  # noqa: E402
from until import until  # noqa: E402

BINARY = os.path.abspath(sys.argv[1])
CLASSPATH = os.environ.get("HF_TEST_KAFKA_CLASSPATH", "")
CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]
RECORDS = 15000
PROPERTIES = """process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs={data}
log.segment.bytes=1048576
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
"""


def java(*args):
    return ["java", "-Xmx512m", "-cp", CLASSPATH, *args]


def run(command, stdin=""):
    p = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=300)
    assert p.returncode == 0, (command, p.returncode, p.stdout[-2000:], p.stderr[-2000:])
    return p.stdout


def produce(at, topic):
    """A part with each codec, by an idempotent producer."""
    for codec in CODECS:
        lines = "".join(f"key{i % 7}:{codec} {i} {'x' * (i * 13 % 700)}\n" for i in range(RECORDS // 5))
        run(["kcat", "-P", "-b", at, "-t", topic, "-K:", "-z", codec, "-X", "enable.idempotence=true", "-X",
             "batch.size=8000"], lines)


def consume(at, topic):
    return run(["kcat", "-C", "-b", at, "-t", topic, "-e", "-q", "-f", "%o %T %k %s\\n"])


def dump(files, *flags):
    return run(java("org.apache.kafka.tools.DumpLogSegments", "--files", ",".join(files), *flags))


def dump_log_segments_reads_what_a_clean_stop_leaves(folder):
    with Holdfast(BINARY, os.path.join(folder, "dumped"), "--segment.bytes=1MiB") as server:
        produce(server.kafka, "dumped")
        assert server.stop() == 0
    at = os.path.join(server.data, "topics", "dumped-0")
    logs, indexes = sorted(glob.glob(at + "/*.log")), sorted(glob.glob(at + "/*index"))
    assert len(logs) > 1 and len(indexes) > 2, (logs, indexes)
    out = dump(logs, "--deep-iteration", "--print-data-log")
    offsets = [int(n) for n in re.findall(r"^\| offset: (\d+)", out, re.M)]
    assert offsets == list(range(RECORDS)), len(offsets)
    assert "isvalid: false" not in out
    out = dump(indexes, "--index-sanity-check")
    assert out.count("passed sanity check") == len(indexes), out
    out = dump(indexes, "--verify-index-only")
    assert "ismatch" not in out.lower() and "out of order" not in out, out


def answers(at):
    p = subprocess.run(["kcat", "-L", "-m", "1", "-b", at], capture_output=True, timeout=60)
    return p.returncode == 0


def what_a_kafka_broker_wrote(folder):
    """Its partition folder, and what a consumer read from it."""
    port, data = free_port(), os.path.join(folder, "kafka")
    properties, at = os.path.join(folder, "server.properties"), f"127.0.0.1:{port}"
    with open(properties, "w") as f:
        f.write(PROPERTIES.format(port=port, controller=free_port(), data=data))
    run(java("kafka.tools.StorageTool", "format", "-t", "MkU3OEVBNTcwNTJENDM2Qk", "-c", properties))
    with open(os.path.join(folder, "kafka.log"), "w") as log:
        broker = subprocess.Popen(java("kafka.Kafka", properties), stdout=log, stderr=log, cwd=folder)
    try:
        until(lambda: answers(at) or broker.poll() is not None, "Kafka")
        assert broker.poll() is None, "the broker does not start"
        produce(at, "adopted")
        return os.path.join(data, "adopted-0"), consume(at, "adopted")
    finally:
        broker.terminate()
        broker.wait()


def a_folder_of_a_kafka_broker_is_adopted_and_served(folder):
    source, want = what_a_kafka_broker_wrote(folder)
    data = os.path.join(folder, "adopting", "data")
    os.makedirs(data)
    out = run([BINARY, "verify", "--data", data, "--adopt", source])
    assert f"records={RECORDS}" in out, out
    assert "damaged=0 rebuilt=0" in run([BINARY, "verify", "--data", data])
    with Holdfast(BINARY, os.path.dirname(data)) as server:
        assert consume(server.kafka, "adopted") == want
        assert server.stop() == 0


def main():
    missing = [p for p in ("java", "kcat") if not shutil.which(p)] + ([] if CLASSPATH else ["HF_TEST_KAFKA_CLASSPATH"])
    if missing:
        print(f"skipped: {', '.join(missing)} missing")
        sys.exit(77)
    for test in dump_log_segments_reads_what_a_clean_stop_leaves, a_folder_of_a_kafka_broker_is_adopted_and_served:
        with tempfile.TemporaryDirectory(prefix="holdfast-kafka-") as folder:
            test(folder)
            print(f"ok {test.__name__}", flush=True)


if __name__ == "__main__":
    main()

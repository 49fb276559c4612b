#!/usr/bin/python3 -B
"""The three smallest examples against a server: a delayed message arrives and not early, a transaction is seen as a whole,
a worker counts each message once even when it is delivered twice.

    smallest.py BUILD-DIR
"""

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from holdfast import Holdfast  # noqa: E402
from until import until  # noqa: E402
from kafka import KafkaConsumer, KafkaProducer, TopicPartition  # noqa: E402


def records(server, topic, count):
    """The first records of partition 0, waited for."""
    consumer = KafkaConsumer(bootstrap_servers=server, enable_auto_commit=False, consumer_timeout_ms=30000)
    consumer.assign([TopicPartition(topic, 0)])
    consumer.seek_to_beginning()
    found = []
    for record in consumer:
        found.append(record)
        if len(found) == count:
            break
    consumer.close()
    assert len(found) == count, f"{topic}: {len(found)} of {count} messages"
    return found


def run(build, *argv):
    p = subprocess.run([os.path.join(build, "examples", argv[0]), *argv[1:]], capture_output=True, text=True, timeout=60)
    assert p.returncode == 0, f"{argv}: {p.stderr}"
    return p.stdout


def delay(build, server):
    assert "accepted: holdfast.delay/" in run(build, "example_delay", server, "reminders", "pay your order", "300")
    message = records(server, "reminders", 1)[0]
    headers = dict(message.headers)
    assert message.value == b"pay your order" and headers["hf-message-id"] == b"order-1042/reminder", message
    assert message.timestamp >= int(headers["hf-due"]) >= int(headers["hf-created-at"]) + 300, message


def transaction(build, server, folder):
    file = os.path.join(folder, "orders.db")
    for order in ("1042", "1043"):
        assert "settled" in run(build, "example_transaction", server, file, order)
    assert [m.key for m in records(server, "orders.placed", 2)] == [b"1042", b"1043"]
    with contextlib.closing(sqlite3.connect(file)) as db:
        assert db.execute("SELECT count(*) FROM orders").fetchone() == (2,)


def counted(file):
    try:
        with contextlib.closing(sqlite3.connect(file, timeout=10)) as db:
            return db.execute("SELECT orders FROM counter").fetchone()[0]
    except sqlite3.OperationalError:
        return -1


def committed(server, group, topic):
    consumer = KafkaConsumer(bootstrap_servers=server, group_id=group, enable_auto_commit=False)
    offset = consumer.committed(TopicPartition(topic, 0))
    consumer.close(autocommit=False)
    return offset


def worker(build, server, folder):
    producer = KafkaProducer(bootstrap_servers=server)
    for order in ("1", "2", "2", "3"):  # the second one twice, under one identity
        producer.send("orders.paid", key=order.encode(), value=b"{}",
                      headers=[("hf-message-id", f"order-{order}/paid".encode())])
    producer.flush()
    file = os.path.join(folder, "inventory.db")
    process = subprocess.Popen([os.path.join(build, "examples", "example_worker"), server, "orders.paid", file],
                               stdout=subprocess.DEVNULL)
    try:
        until(lambda: committed(server, "inventory", "orders.paid") == 4, "four settled messages")
    finally:
        process.send_signal(signal.SIGTERM)
        status = process.wait(60)
    assert status == 0, f"the worker ended with {status}"
    assert counted(file) == 3, "an order was counted twice"


def main():
    build = sys.argv[1]
    with tempfile.TemporaryDirectory(prefix="holdfast-test-") as folder, \
            Holdfast(os.path.join(build, "holdfast"), folder) as server:
        delay(build, server.kafka)
        transaction(build, server.kafka, folder)
        worker(build, server.kafka, folder)
    print("ok")


if __name__ == "__main__":
    main()

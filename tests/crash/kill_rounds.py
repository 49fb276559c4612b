#!/usr/bin/python3
"""kill -9 under load: kill_rounds.py --binary build/holdfast [--rounds 100] [--seed N] [--keep]

Real clients (librdkafka) send, consume, delay and decide while the server is killed and started again, round after round.
This program writes down every send and every answer, and at the end compares them with what the topics hold:

  plain      acks=1, no retries      acknowledged: there, at its offset; not acknowledged: at most once
  durable    acks=all, idempotent    acknowledged: exactly once; not acknowledged: at most once
  fired      through holdfast.delay  acknowledged: exactly once, never before hf-due; not acknowledged: at most once
  settled    through holdfast.txn    committed: every half exactly once; rolled back or undecided: none; a decision that was
                                     not acknowledged: all halves or none
  offsets    committed by a group    never behind the last commit that was acknowledged
"""
import argparse
import collections
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from holdfast import Holdfast  # noqa: E402

TOPICS = {"plain": 2, "durable": 3, "fired": 2, "settled": 2}


class Sends:
    """What was sent under a number, and how it was answered."""

    def __init__(self):
        self.lock = threading.Lock()
        self.sent = set()
        self.acked = {}   # number -> (partition, offset)

    def answer(self, number):
        def delivered(error, message):
            if error is None:
                with self.lock:
                    self.acked[number] = (message.partition(), message.offset())
        return delivered


class Load:
    def __init__(self, servers, seed):
        self.servers, self.random = servers, random.Random(seed)
        self.stop = threading.Event()
        self.pause = threading.Event()
        self.plain, self.durable, self.delayed = Sends(), Sends(), Sends()
        self.halves, self.decisions = Sends(), Sends()
        self.decision_of = {}     # transaction -> "commit" | "rollback", as sent
        self.committed = {}       # partition -> offset, as acknowledged
        self.failures = []
        self.threads = [threading.Thread(target=self.guarded, args=(f,)) for f in
                        (self.run_plain, self.run_durable, self.run_delayed, self.run_transactions, self.run_group)]

    def guarded(self, run):
        try:
            run()
        except Exception as error:  # a thread that dies must fail the test
            self.failures.append(f"{run.__name__}: {error!r}")

    def producer(self, **more):
        return Producer({"bootstrap.servers": self.servers, "linger.ms": 1, "message.timeout.ms": 120000,
                         "reconnect.backoff.ms": 20, "reconnect.backoff.max.ms": 200, "retry.backoff.ms": 20,
                         "error_cb": lambda e: None, "log_level": 0, **more})

    def produce(self, producer, topic, sends, number, **message):
        sends.sent.add(number)
        while True:
            try:
                producer.produce(topic, on_delivery=sends.answer(number), **message)
                return
            except BufferError:
                producer.poll(0.05)

    def numbers(self, producer, per_second):
        """Counts up until the end, at about that rate; drains the producer at the end."""
        number = 0
        while not self.stop.is_set():
            yield number
            number += 1
            producer.poll(0)
            if number % 20 == 0:
                self.stop.wait(20 / per_second)
        producer.flush(90)

    def run_plain(self):
        producer = self.producer(**{"acks": 1, "message.send.max.retries": 0, "message.timeout.ms": 5000})
        for n in self.numbers(producer, 2000):
            self.produce(producer, "plain", self.plain, n, key=str(n % 50), value=str(n))

    def run_durable(self):
        producer = self.producer(**{"enable.idempotence": True})
        for n in self.numbers(producer, 2000):
            self.produce(producer, "durable", self.durable, n, key=str(n % 50), value=str(n))

    def run_delayed(self):
        producer = self.producer(**{"enable.idempotence": True})
        for n in self.numbers(producer, 1000):
            delay = random.Random(n).randrange(0, 2500)
            self.produce(producer, "holdfast.delay", self.delayed, n, key=str(n % 50), value=str(n),
                         headers=[("hf-topic", b"fired"), ("hf-delay", f"{delay}ms".encode())])

    def run_transactions(self):
        producer = self.producer(**{"enable.idempotence": True})
        for n in self.numbers(producer, 200):
            group = [("hf-group", b"kill-rounds")]
            for half in range(2):
                self.produce(producer, "holdfast.txn", self.halves, (n, half), key=f"t{n}", value=f"{n}/{half}",
                             headers=group + [("hf-op", b"prepare"), ("hf-topic", b"settled"), ("hf-check-after", b"1h"),
                                              ("hf-key", f"{n}".encode()), ("hf-message-id", f"{n}/{half}".encode())])
            draw = random.Random(n).random()
            if draw > 0.9:
                continue
            self.decision_of[n] = "commit" if draw < 0.7 else "rollback"
            self.produce(producer, "holdfast.txn", self.decisions, n, key=f"t{n}", value=b"",
                         headers=group + [("hf-op", self.decision_of[n].encode())])

    def run_group(self):
        consumer = Consumer({"bootstrap.servers": self.servers, "group.id": "kill-rounds", "enable.auto.commit": False,
                             "auto.offset.reset": "earliest", "session.timeout.ms": 6000, "log_level": 0,
                             "reconnect.backoff.ms": 20, "reconnect.backoff.max.ms": 200, "error_cb": lambda e: None})
        consumer.subscribe(["durable"])
        while not self.stop.is_set():
            messages = consumer.consume(200, 0.1)
            ahead = {}
            for m in messages:
                if m.error() is None:
                    ahead[m.partition()] = max(ahead.get(m.partition(), 0), m.offset() + 1)
            if not ahead:
                continue
            try:
                done = consumer.commit(offsets=[TopicPartition("durable", p, o) for p, o in ahead.items()],
                                       asynchronous=False)
                for tp in done:
                    if tp.error is None:
                        self.committed[tp.partition] = tp.offset
            except KafkaException:
                pass  # the server was down, or the group had moved on: not acknowledged, so not counted
        consumer.close()


def group_offsets(servers):
    consumer = Consumer({"bootstrap.servers": servers, "group.id": "kill-rounds", "enable.auto.commit": False, "log_level": 0})
    try:
        parts = consumer.committed([TopicPartition("durable", p) for p in range(TOPICS["durable"])], timeout=20)
        return {tp.partition: tp.offset for tp in parts if tp.offset >= 0}
    finally:
        consumer.close()


def read_all(servers, topic):
    """Every message of the topic as (partition, offset, timestamp, value, headers)."""
    consumer = Consumer({"bootstrap.servers": servers, "group.id": "reader", "enable.auto.commit": False,
                         "enable.partition.eof": True, "auto.offset.reset": "earliest", "log_level": 0})
    found, at_end = [], set()
    consumer.assign([TopicPartition(topic, p, 0) for p in range(TOPICS[topic])])
    deadline = time.monotonic() + 60
    while len(at_end) < TOPICS[topic] and time.monotonic() < deadline:
        for m in consumer.consume(1000, 1.0):
            if m.error() is None:
                found.append((m.partition(), m.offset(), m.timestamp()[1], m.value().decode(), dict(m.headers() or [])))
            else:
                at_end.add(m.partition())
    consumer.close()
    if len(at_end) < TOPICS[topic]:
        raise RuntimeError(f"{topic} was not read to its end in 60 s")
    return found


class Verdict:
    def __init__(self):
        self.wrong = []

    def say(self, ok, text, examples=()):
        if not ok:
            self.wrong.append(text)
            print(f"WRONG  {text}: {list(examples)[:5]}")

    def numbered(self, name, sends, found, exactly_once, with_offsets):
        """Compares sends by number with what the topic holds."""
        counts = collections.Counter(int(value) for _, _, _, value, _ in found)
        places = {(p, o): int(v) for p, o, _, v, _ in found}
        self.say(len(places) == len(found), f"{name}: an offset was read twice")
        missing = [n for n in sends.acked if counts[n] == 0]
        self.say(not missing, f"{name}: {len(missing)} acknowledged messages are missing", missing)
        twice = [n for n, c in counts.items() if c > 1]
        self.say(not twice, f"{name}: {len(twice)} messages are there more than once", twice)
        strange = [n for n in counts if n not in sends.sent]
        self.say(not strange, f"{name}: {len(strange)} messages nobody sent", strange)
        if with_offsets:
            moved = [n for n, place in sends.acked.items() if places.get(place) != n]
            self.say(not moved, f"{name}: {len(moved)} acknowledged messages are not at their offset", moved)
        print(f"{name}: {len(sends.sent)} sent, {len(sends.acked)} acknowledged, {len(found)} there")

    def transactions(self, load, found):
        halves = collections.Counter(value for _, _, _, value, _ in found)
        twice = [v for v, c in halves.items() if c > 1]
        self.say(not twice, f"settled: {len(twice)} halves are there more than once", twice)
        tally = collections.Counter()
        for n in {n for n, _ in load.halves.sent}:
            there = sum(halves[f"{n}/{h}"] > 0 for h in range(2))
            decision, acked = load.decision_of.get(n), n in load.decisions.acked
            whole = all((n, h) in load.halves.acked for h in range(2))
            if decision == "commit" and acked and whole:
                self.say(there == 2, f"settled: transaction {n} was committed, {there} of 2 halves are there")
            elif decision == "commit":
                self.say(there in (0, 2) or not whole, f"settled: transaction {n} is half there")
            else:
                self.say(there == 0, f"settled: transaction {n} was not committed ({decision}), {there} halves are there")
            tally[(decision, acked)] += 1
        print("settled:", ", ".join(f"{d or 'undecided'}{'' if a else ' (not acknowledged)'} {c}"
                                    for (d, a), c in sorted(tally.items(), key=str)))


def wait_for_fired(servers, load):
    """Polls until all acknowledged delayed messages have come, or two minutes are over."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        consumer = Consumer({"bootstrap.servers": servers, "group.id": "reader", "log_level": 0})
        ends = sum(consumer.get_watermark_offsets(TopicPartition("fired", p), timeout=20)[1] for p in range(TOPICS["fired"]))
        consumer.close()
        if ends >= len(load.delayed.acked):
            return
        time.sleep(0.2)


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--binary", required=True)
    options.add_argument("--rounds", type=int, default=100)
    options.add_argument("--seed", type=int, default=int(time.time()))
    options.add_argument("--keep", action="store_true", help="leave the folder for a look")
    o = options.parse_args()
    folder = tempfile.mkdtemp(prefix="holdfast-kill-")
    rng, verdict = random.Random(o.seed), Verdict()
    print(f"seed {o.seed}, folder {folder}", flush=True)
    server = Holdfast(o.binary, folder)
    slowest = 0
    try:
        server.start()
        server.listen = server.kafka  # the same over restarts
        admin = AdminClient({"bootstrap.servers": server.listen, "log_level": 0})
        for future in admin.create_topics([NewTopic(t, n, 1) for t, n in TOPICS.items()]).values():
            future.result(30)
        load = Load(server.listen, o.seed)
        for thread in load.threads:
            thread.start()
        for number in range(o.rounds):
            time.sleep(rng.uniform(0.1, 1.2))  # not a wait for a condition: the kill comes at any moment
            server.stop(signal.SIGKILL)
            before = dict(load.committed)
            began = time.monotonic()
            server.start()
            slowest = max(slowest, time.monotonic() - began)
            now = group_offsets(server.listen)
            back = {p: (offset, now.get(p)) for p, offset in before.items() if now.get(p, -1) < offset}
            verdict.say(not back, f"round {number}: committed offsets went back", back.items())
        load.stop.set()
        for thread in load.threads:
            thread.join(120)
        verdict.say(not load.failures, "a client failed", load.failures)
        verdict.say(not any(t.is_alive() for t in load.threads), "a client did not end")
        wait_for_fired(server.listen, load)
        verdict.numbered("plain", load.plain, read_all(server.listen, "plain"), False, True)
        verdict.numbered("durable", load.durable, read_all(server.listen, "durable"), True, True)
        fired = read_all(server.listen, "fired")
        verdict.numbered("fired", load.delayed, fired, True, False)
        early = [(v, t, int(h["hf-due"])) for _, _, t, v, h in fired if t < int(h["hf-due"])]
        verdict.say(not early, f"fired: {len(early)} came early", early)
        verdict.transactions(load, read_all(server.listen, "settled"))
        verdict.say(server.stop() == 0, "the clean stop failed")
        for name, sends in (("plain", load.plain), ("durable", load.durable), ("delayed", load.delayed),
                            ("decisions", load.decisions)):
            verdict.say(len(sends.acked) > o.rounds, f"{name}: only {len(sends.acked)} answers: the load did not run")
        verdict.say(len(load.committed) > 0, "no offset was committed")
        print(f"{o.rounds} rounds, slowest start {slowest:.2f} s, {len(verdict.wrong)} wrong")
    finally:
        server.stop(signal.SIGKILL)
        if o.keep or verdict.wrong:
            print(f"kept {folder}")
        else:
            shutil.rmtree(folder)
    return 1 if verdict.wrong else 0


if __name__ == "__main__":
    sys.exit(main())

"""A compacted topic under crashes, for promises.py: a client that updates and deletes a few hundred keys while the server compacts,
and is brought down again and again, also in the middle of a copy or a swap.

The topic has one partition and the producer is idempotent, so the numbers of its records ascend with the offsets. What is left of a
key follows: its newest record, or one behind it; none only if the newest that was answered, or one that was sent later, deletes it.
An older one than was answered would be a value, or a deletion, that was taken back."""
import random
import time

from confluent_kafka import Consumer, KafkaError, TopicPartition

TOPIC, KEYS = "table", 300
CONFIG = {"cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0.01", "delete.retention.ms": "200"}
SERVER = "--log.retention.check.interval.ms=200ms"  # how often is looked whether there is something to compact


def key_of(number):
    return f"k{random.Random(number).randrange(KEYS)}"


def deletes(number):
    return number % 7 == 0


class Tables:
    def __init__(self, load, bytes_of):
        self.load, self.bytes_of = load, bytes_of
        self.sent = 0
        self.acked = {}      # number -> offset
        self.changed = []    # what was wrong with a record that was read
        self.at = {}         # offset -> number, as read or answered
        self.looks = self.compacted = 0  # the latter: of those, that met fewer records than were answered

    def answer(self, number):
        def delivered(error, message):
            if error is None:
                self.acked[number] = message.offset()
        return delivered

    def run(self):
        producer = self.load.producer(**{"enable.idempotence": True, "compression.type": "zstd"})
        for number in self.load.numbers(producer, 600):
            self.sent = number + 1
            value = None if deletes(number) else self.bytes_of(str(number)) + random.Random(number).randbytes(400)
            while True:
                try:
                    producer.produce(TOPIC, key=key_of(number), value=value, headers=[("n", str(number).encode())],
                                     on_delivery=self.answer(number))
                    break
                except BufferError:
                    producer.poll(0.05)

    def number_of(self, message):
        number = int(dict(message.headers())["n"])
        value = message.value()
        right = message.key().decode() == key_of(number) and number < self.sent
        if deletes(number):
            right = right and value is None
        else:
            right = right and value == self.bytes_of(str(number)) + random.Random(number).randbytes(400)
        if not right:
            self.changed.append((message.offset(), number))
        return number

    def read(self, servers):
        """offset -> number, of all that lies below the high watermark now."""
        consumer = Consumer({"bootstrap.servers": servers, "group.id": "tables", "enable.auto.commit": False, "check.crcs": True,
                             "enable.partition.eof": True, "auto.offset.reset": "earliest", "log_level": 0,
                             "reconnect.backoff.ms": 20, "reconnect.backoff.max.ms": 200})
        found, deadline = [], time.monotonic() + 60
        try:
            _, end = consumer.get_watermark_offsets(TopicPartition(TOPIC, 0), timeout=30)
            consumer.assign([TopicPartition(TOPIC, 0, 0)])
            while time.monotonic() < deadline:
                for m in consumer.consume(1000, 0.1):
                    if m.error() is None:
                        found.append((m.offset(), self.number_of(m)))
                    elif m.error().code() == KafkaError._PARTITION_EOF:
                        return found
                if found and found[-1][0] >= end - 1:
                    return found
        finally:
            consumer.close()
        raise RuntimeError(f"{TOPIC} was not read to its end in 60 s")

    def verify(self, verdict, servers, what):
        """The clients may go on meanwhile: what was answered before counts."""
        acked = dict(self.acked)
        found = self.read(servers)
        offsets, newest = [o for o, _ in found], {}
        verdict.say(offsets == sorted(set(offsets)), f"{what}: table: offsets do not ascend")
        numbers = [n for _, n in found]
        verdict.say(numbers == sorted(set(numbers)), f"{what}: table: records are out of order, or there twice")
        for offset, number in found:
            newest[key_of(number)] = number
        for offset, number in found + [(o, n) for n, o in acked.items()]:
            if self.at.setdefault(offset, number) != number:
                self.changed.append((offset, self.at[offset], number))
        verdict.say(not self.changed, f"{what}: table: records are others than were sent, or at another's offset", self.changed)
        last = {}
        for number in acked:
            last[key_of(number)] = max(number, last.get(key_of(number), -1))
        back = [(key, n, newest[key]) for key, n in last.items() if key in newest and newest[key] < n]
        verdict.say(not back, f"{what}: table: {len(back)} keys have an older record than was answered", back)
        gone = [(key, n) for key, n in last.items() if key not in newest and not self.deleted_since(key, n)]
        verdict.say(not gone, f"{what}: table: {len(gone)} keys are lost", gone)
        self.looks += 1
        self.compacted += len(found) < len(acked) * 0.9
        return len(found)

    def deleted_since(self, key, number):
        return any(deletes(n) and key_of(n) == key for n in range(number, self.sent))

    def end(self, verdict, servers, rounds):
        left = self.verify(verdict, servers, "in the end")
        print(f"table: {self.sent} sent, {len(self.acked)} acknowledged, {left} left; compacted at {self.compacted} of "
              f"{self.looks} looks")
        verdict.say(len(self.acked) > rounds, f"table: only {len(self.acked)} answers: the load did not run")
        verdict.say(rounds < 25 or self.compacted > 0, "table: it was never compacted")

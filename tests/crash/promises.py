"""What kill_rounds.py and power_cuts.py share: real clients (librdkafka) that send, consume, delay and decide while the
server is brought down again and again, that write down every send and every answer, and the comparison, in the end, of what
they wrote with what the topics hold.

  plain      acks=1, no retries      answered in a life that a kill ended: there; of one that a power cut ended: a prefix of
                                     the answered ones is there; none twice
  durable    acks=all, idempotent    answered: exactly once, at its offset; not answered: at most once
  fired      through holdfast.delay  answered: exactly once, never before hf-due; not answered: at most once
  settled    through holdfast.txn    committed: every half exactly once; rolled back or undecided: none; a decision that was
                                     not answered: all halves or none
  table      compacted               of each key the newest answered record, or a newer one; none only if that deletes it
                                     (tables.py)
  named      schedules with an id     replaced, kept, cancelled, recurring: what becomes of each follows from when its operations
                                     were accepted (schedules.py)
  offsets    committed by a group    never behind the last commit that was answered
  readers    of plain and durable    what was read from an acks=all topic is there, at its offset; no offset, answered or
                                     read, ever means two messages
  bytes      of every message read   are those that were sent: they follow from the message's number; batches' checksums too

A life lasts from one start of the server to its end. Which life an answer of `plain` belongs to follows from the leader epoch of
its offset, so it does not matter when the answer was looked at."""
import collections
import random
import socket
import struct
import threading
import time
import zlib

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from schedules import MINUTE_MS, Schedules
from tables import CONFIG, TOPIC, Tables

TOPICS = {"plain": 2, "durable": 3, "fired": 2, "settled": 2, "named": 2, TOPIC: 1}
KILL, POWER = "kill", "power"


FILLER = random.Random(0).randbytes(16384)


def bytes_of(text):
    """What is sent as message `text`: its name, then bytes that follow from it, mostly few, now and then some thousand."""
    draw = zlib.crc32(text.encode())
    at, length = draw % 8192, (draw >> 13) % (8000 if draw % 16 == 0 else 200)
    return text.encode() + b" " + FILLER[at:at + length]


def text_of(value):
    text = value.split(b" ", 1)[0].decode(errors="replace")
    if bytes_of(text) != value:
        raise ValueError(f"{len(value)} bytes that nobody sent: {value[:60]!r}")
    return text


def create_topics(servers):
    admin = AdminClient({"bootstrap.servers": servers, "log_level": 0})
    for future in admin.create_topics([NewTopic(t, n, 1, config=CONFIG if t == TOPIC else {}) for t, n in
                                       TOPICS.items()]).values():
        future.result(30)


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


class Reads:
    """What readers saw of a topic: one message an offset, for ever."""

    def __init__(self):
        self.at = {}         # (partition, offset) -> value
        self.changed = []    # places that meant two messages

    def add(self, message):
        place, value = (message.partition(), message.offset()), text_of(message.value())
        if self.at.setdefault(place, value) != value:
            self.changed.append((place, self.at[place], value))


class Load:
    """The clients. Where `moments` is set, most delayed messages are due in one millisecond, due_ms, which the caller sets
    anew for each round."""

    def __init__(self, servers, seed, moments=False):
        self.servers, self.moments = servers, moments
        self.stop = threading.Event()
        self.due_ms = 0
        self.plain, self.durable, self.delayed = Sends(), Sends(), Sends()
        self.halves, self.decisions = Sends(), Sends()
        self.reads = {"plain": Reads(), "durable": Reads()}
        self.decision_of = {}     # transaction -> "commit" | "rollback", as sent
        self.committed = {}       # partition -> offset, as acknowledged
        self.failures = []
        self.seed = seed
        self.schedules = Schedules(self, bytes_of)
        self.tables = Tables(self, bytes_of)
        self.threads = [threading.Thread(target=self.guarded, args=(f,), daemon=True) for f in
                        (self.run_plain, self.run_durable, self.run_delayed, self.run_transactions, self.run_group,
                         self.run_reader, self.schedules.run, self.tables.run)]

    def start(self):
        for thread in self.threads:
            thread.start()

    def end(self, verdict):
        """The server runs: all that is under way is answered, then the clients end."""
        self.stop.set()
        for thread in self.threads:
            thread.join(120)
        verdict.say(not self.failures, "a client failed", self.failures)
        verdict.say(not any(t.is_alive() for t in self.threads), "a client did not end")

    def until_the_moment(self, rng):
        """Not a wait for a condition: the crash comes at any moment, or about when the messages of this round fall due."""
        if not self.moments:
            time.sleep(rng.uniform(0.1, 1.0))
            return
        now_ms = int(time.time() * 1000)
        minute_ms = now_ms - now_ms % MINUTE_MS + MINUTE_MS  # something recurs then
        self.due_ms = minute_ms if 300 < minute_ms - now_ms < 2500 else now_ms + rng.randrange(400, 900)
        time.sleep(max(0, self.due_ms / 1000 + rng.uniform(-0.02, 0.08) - time.time()))

    def guarded(self, run):
        try:
            run()
        except Exception as error:  # a thread that dies must fail the test
            self.failures.append(f"{run.__name__}: {error!r}")

    def producer(self, **more):
        return Producer({"bootstrap.servers": self.servers, "linger.ms": 1, "message.timeout.ms": 120000,
                         "reconnect.backoff.ms": 20, "reconnect.backoff.max.ms": 200, "retry.backoff.ms": 20,
                         "error_cb": lambda e: None, "log_level": 0, **more})

    def consumer(self, **more):
        return Consumer({"bootstrap.servers": self.servers, "enable.auto.commit": False, "auto.offset.reset": "earliest",
                         "session.timeout.ms": 6000, "check.crcs": True, "log_level": 0, "reconnect.backoff.ms": 20,
                         "reconnect.backoff.max.ms": 200, "error_cb": lambda e: None, **more})

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
            self.produce(producer, "plain", self.plain, n, key=str(n % 50), value=bytes_of(str(n)))

    def run_durable(self):
        producer = self.producer(**{"enable.idempotence": True, "compression.type": "lz4"})
        for n in self.numbers(producer, 2000):
            self.produce(producer, "durable", self.durable, n, key=str(n % 50), value=bytes_of(str(n)))

    def when(self, draw):
        """The header that says when: at the moment that is aimed at, or after a while of its own."""
        due_ms = self.due_ms
        if self.moments and draw.random() < 0.9 and due_ms > time.time() * 1000:
            return ("hf-due", str(due_ms).encode())
        return ("hf-delay", f"{draw.randrange(0, 2500)}ms".encode())

    def run_delayed(self):
        producer = self.producer(**{"enable.idempotence": True})
        for n in self.numbers(producer, 4000 if self.moments else 1000):
            self.produce(producer, "holdfast.delay", self.delayed, n, key=str(n % 50), value=bytes_of(str(n)),
                         headers=[("hf-topic", b"fired"), self.when(random.Random(n))])

    def run_transactions(self):
        producer = self.producer(**{"enable.idempotence": True})
        for n in self.numbers(producer, 200):
            group = [("hf-group", b"kill-rounds")]
            for half in range(2):
                self.produce(producer, "holdfast.txn", self.halves, (n, half), key=f"t{n}", value=bytes_of(f"{n}/{half}"),
                             headers=group + [("hf-op", b"prepare"), ("hf-topic", b"settled"), ("hf-check-after", b"1h"),
                                              ("hf-key", f"{n}".encode()), ("hf-message-id", f"{n}/{half}".encode())])
            draw = random.Random(n).random()
            if draw > 0.9:
                continue
            self.decision_of[n] = "commit" if draw < 0.7 else "rollback"
            self.produce(producer, "holdfast.txn", self.decisions, n, key=f"t{n}", value=b"",
                         headers=group + [("hf-op", self.decision_of[n].encode())])

    def run_group(self):
        consumer = self.consumer(**{"group.id": "kill-rounds"})
        consumer.subscribe(["durable"])
        while not self.stop.is_set():
            messages = consumer.consume(200, 0.1)
            ahead = {}
            for m in messages:
                if m.error() is None:
                    self.reads["durable"].add(m)
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

    def run_reader(self):
        """Reads `plain` as it grows: what it saw may be lost with the power, but its offset is never used again."""
        consumer = self.consumer(**{"group.id": "reader"})
        consumer.assign([TopicPartition("plain", p, 0) for p in range(TOPICS["plain"])])
        while not self.stop.is_set():
            for m in consumer.consume(500, 0.1):
                if m.error() is None:
                    self.reads["plain"].add(m)
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
                         "enable.partition.eof": True, "auto.offset.reset": "earliest", "check.crcs": True, "log_level": 0})
    found, at_end = [], set()
    consumer.assign([TopicPartition(topic, p, 0) for p in range(TOPICS[topic])])
    deadline = time.monotonic() + 60
    while len(at_end) < TOPICS[topic] and time.monotonic() < deadline:
        for m in consumer.consume(1000, 1.0):
            if m.error() is None:
                found.append((m.partition(), m.offset(), m.timestamp()[1], text_of(m.value()), dict(m.headers() or [])))
            else:
                at_end.add(m.partition())
    consumer.close()
    if len(at_end) < TOPICS[topic]:
        raise RuntimeError(f"{topic} was not read to its end in 60 s")
    return found


# ---- leader epochs, asked for by hand: no client library tells them ----

def exactly(connection, n):
    data = b""
    while len(data) < n:
        more = connection.recv(n - len(data))
        if not more:
            raise ConnectionError("closed")
        data += more
    return data


def epoch_end(connection, topic, partition, epoch):
    """OffsetForLeaderEpoch version 2: (the largest epoch not above, the offset behind its last message)."""
    name = topic.encode()
    body = struct.pack(">hhih", 23, 2, 1, -1) + struct.pack(">ih", 1, len(name)) + name + struct.pack(
        ">iiii", 1, partition, -1, epoch)
    connection.sendall(struct.pack(">i", len(body)) + body)
    answer = exactly(connection, struct.unpack(">i", exactly(connection, 4))[0])
    error, _, found, end = struct.unpack(">hiiq", answer[-18:])
    return (found, end) if error == 0 else (-1, -1)


def epochs(servers, topic):
    """partition -> [(epoch, its first offset, the offset behind its last)], oldest first. They follow one another, from 0."""
    host, port = servers.rsplit(":", 1)
    tables = {}
    with socket.create_connection((host, int(port)), 20) as connection:
        for partition in range(TOPICS[topic]):
            rows = []
            while not rows or rows[-1][0] >= 0:
                rows.append(epoch_end(connection, topic, partition, len(rows)))
            rows.pop()  # above the newest there is none
            tables[partition] = [(e, rows[i - 1][1] if i else 0, end) for i, (e, end) in enumerate(rows)]
    return tables


class Lives:
    """How the lives of each leader epoch of `plain` ended. An epoch that outlived a crash lost nothing in it."""

    def __init__(self):
        self.ends = {}   # (partition, epoch) -> KILL | POWER, the last crash in it

    def crashed(self, how, table):
        for partition, rows in table.items():
            self.ends[(partition, rows[-1][0])] = how


# ---- the verdict ----

class Verdict:
    def __init__(self):
        self.wrong = []

    def say(self, ok, text, examples=()):
        if not ok:
            self.wrong.append(text)
            print(f"WRONG  {text}: {list(examples)[:5]}", flush=True)

    def counted(self, name, sends, found):
        """None is there twice, none that nobody sent; returns how often each number is there."""
        counts = collections.Counter(int(value) for _, _, _, value, _ in found)
        places = {(p, o) for p, o, _, _, _ in found}
        self.say(len(places) == len(found), f"{name}: an offset was read twice")
        twice = [n for n, c in counts.items() if c > 1]
        self.say(not twice, f"{name}: {len(twice)} messages are there more than once", twice)
        strange = [n for n in counts if n not in sends.sent]
        self.say(not strange, f"{name}: {len(strange)} messages nobody sent", strange)
        print(f"{name}: {len(sends.sent)} sent, {len(sends.acked)} acknowledged, {len(found)} there")
        return counts

    def once(self, name, sends, found):
        counts = self.counted(name, sends, found)
        missing = [n for n in sends.acked if counts[n] == 0]
        self.say(not missing, f"{name}: {len(missing)} acknowledged messages are missing",
                 [(n, sends.acked[n]) for n in missing])

    def places(self, name, sends, reads, found, kept):
        """No offset means two messages; where all answered and seen ones are `kept`, each is at its own."""
        there = {(p, o): int(v) for p, o, _, v, _ in found}
        known = [(place, n) for n, place in sends.acked.items()] + [(place, int(v)) for place, v in reads.at.items()]
        other = [(place, n, there[place]) for place, n in known if place in there and there[place] != n]
        self.say(not other, f"{name}: {len(other)} offsets hold another message than was answered or read", other)
        self.say(not reads.changed, f"{name}: {len(reads.changed)} offsets were read with two messages", reads.changed)
        answered = {place: n for n, place in sends.acked.items()}
        twice = len(answered) != len(sends.acked)
        self.say(not twice, f"{name}: an offset was answered for two messages")
        clash = [place for place, v in reads.at.items() if answered.get(place, int(v)) != int(v)]
        self.say(not clash, f"{name}: {len(clash)} offsets were read with another message than was answered", clash)
        gone = [(place, n) for place, n in known if place not in there] if kept else []
        self.say(not gone, f"{name}: {len(gone)} messages that were answered or read are gone", gone)

    def plain(self, load, found, table, lives):
        """acks=1: whole lives survive a kill, a prefix of them a power cut."""
        self.counted("plain", load.plain, found)
        self.places("plain", load.plain, load.reads["plain"], found, kept=False)
        there = {(p, o) for p, o, _, _, _ in found}
        known = sorted(set(load.plain.acked.values()) | set(load.reads["plain"].at))
        lost = collections.Counter()
        for partition, rows in table.items():
            for epoch, first, end in rows:
                how = lives.ends.get((partition, epoch), KILL)
                offsets = [o for p, o in known if p == partition and first <= o < end]
                missing = [o for o in offsets if (partition, o) not in there]
                lost[how] += len(missing)
                if how == POWER and missing:  # a prefix is kept
                    missing = [o for o in offsets if o > missing[0] and (partition, o) in there]
                self.say(not missing, f"plain-{partition} epoch {epoch}, ended by {how}: {len(missing)} of {len(offsets)} "
                         "are wrongly gone, or kept above a loss", missing)
        last = {p: rows[-1][2] for p, rows in table.items()}
        beyond = [place for place in known if place[1] >= last[place[0]]]
        self.say(not beyond, f"plain: {len(beyond)} answered offsets are beyond the end", beyond)
        print(f"plain: {lost[POWER]} answered or read messages went with the power")

    def early(self, found):
        early = [(v, t, int(h["hf-due"])) for _, _, t, v, h in found if t < int(h["hf-due"])]
        self.say(not early, f"fired: {len(early)} came early", early)

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

    def offsets(self, load, servers, before, what):
        now = group_offsets(servers)
        back = {p: (offset, now.get(p)) for p, offset in before.items() if now.get(p, -1) < offset}
        self.say(not back, f"{what}: committed offsets went back", back.items())

    def everything(self, load, servers, lives, rounds):
        """The clients have ended, the server runs: compares what they wrote down with what is there."""
        wait_for_fired(servers, load)
        self.plain(load, read_all(servers, "plain"), epochs(servers, "plain"), lives)
        durable = read_all(servers, "durable")
        self.once("durable", load.durable, durable)
        self.places("durable", load.durable, load.reads["durable"], durable, kept=True)
        fired = read_all(servers, "fired")
        self.once("fired", load.delayed, fired)
        self.early(fired)
        self.transactions(load, read_all(servers, "settled"))
        load.schedules.verify(self, lambda: read_all(servers, "named"))
        load.tables.end(self, servers, rounds)
        self.offsets(load, servers, load.committed, "in the end")
        for name, sends in (("plain", load.plain), ("durable", load.durable), ("delayed", load.delayed),
                            ("decisions", load.decisions)):
            self.say(len(sends.acked) > rounds, f"{name}: only {len(sends.acked)} answers: the load did not run")
        self.say(len(load.committed) > 0, "no offset was committed")
        for topic, reads in load.reads.items():
            self.say(len(reads.at) > 0, f"{topic}: nothing was read while it grew")


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

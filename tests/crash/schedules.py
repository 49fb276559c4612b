"""Named schedules under crashes, for promises.py: a client that schedules, replaces, keeps and cancels by id, and lets some recur,
while the server is brought down again and again, mostly at the moment when they fall due.

holdfast.delay has one partition and the producer is idempotent, so operations are accepted in the order in which they were sent,
and each answer tells when (LogAppendTime). What must have become of each id follows from that alone: an operation accepted at or
after the due time of the message it is about comes too late. An id with an operation whose time is not known (not answered, or
answered as a repetition) is only held to "none twice, none that was never sent".

A series that recurs every minute has one run for each of them: the next one is the first minute after both a run's due time and
the moment at which it was delivered."""
import collections
import random
import time

from confluent_kafka import TIMESTAMP_LOG_APPEND_TIME

TOPIC, SERIES, MINUTE_MS = "named", 12, 60000


def minute_after(ms):
    return ms // MINUTE_MS * MINUTE_MS + MINUTE_MS


class Schedules:
    def __init__(self, load, bytes_of):
        self.load, self.bytes_of = load, bytes_of
        self.ops = collections.defaultdict(list)   # id -> [(number, kind, text of the message or None, due or None)]
        self.at = {}                               # number -> when it was accepted; None: not known
        self.numbers = 0

    def answer(self, number):
        def delivered(error, message):
            if error is None:
                kind, ms = message.timestamp()
                self.at[number] = ms if kind == TIMESTAMP_LOG_APPEND_TIME else None
        return delivered

    def send(self, producer, name, kind, text, due_ms, *headers):
        number, self.numbers = self.numbers, self.numbers + 1
        self.ops[name].append((number, kind, text, due_ms))
        when = [("hf-due", str(due_ms).encode())] if due_ms is not None else []
        while True:
            try:
                producer.produce("holdfast.delay", key=name, value=self.bytes_of(text) if text else b"",
                                 headers=[("hf-topic", TOPIC.encode()), ("hf-id", name.encode()), *when, *headers],
                                 on_delivery=self.answer(number))
                return
            except BufferError:
                producer.poll(0.05)

    def due(self, draw):
        """At the moment that is aimed at, or some time of its own."""
        now_ms = int(time.time() * 1000)
        aimed = self.load.due_ms
        return aimed if aimed > now_ms and draw.random() < 0.8 else now_ms + draw.randrange(0, 2500)

    def change(self, producer, name, draw):
        kind = draw.choice(["cancel", "cancel", "replace", "replace", "keep"])
        if kind == "cancel":
            self.send(producer, name, kind, None, None, ("hf-op", b"cancel"))
            return
        text = f"{name}.{len(self.ops[name])}"
        self.send(producer, name, kind, text, self.due(draw), ("hf-on-conflict", kind.encode()))

    def run(self):
        producer = self.load.producer(**{"enable.idempotence": True})
        for i in range(SERIES):
            self.send(producer, f"c{i}", "series", f"c{i}", None, ("hf-cron", b"* * * * *"))
        for n in self.load.numbers(producer, 800 if self.load.moments else 200):
            draw = random.Random(n)
            self.send(producer, f"s{n}", "replace", f"s{n}.0", self.due(draw))
            if n > 20 and draw.random() < 0.6:
                self.change(producer, f"s{n - draw.randrange(1, 20)}", draw)
        for i in range(SERIES):
            self.send(producer, f"c{i}", "cancel", None, None, ("hf-op", b"cancel"))
        producer.flush(90)

    # ---- what follows ----

    def expected(self, name):
        """The texts that must be delivered, or None: not known."""
        delivered, pending = set(), None   # (text, due)
        for number, kind, text, due_ms in self.ops[name]:
            at = self.at.get(number)
            if at is None:
                return None
            if pending and pending[1] <= at:
                delivered.add(pending[0])
                pending = None
            if kind == "cancel":
                pending = None
            elif kind == "replace" or not pending:
                pending = (text, max(due_ms, at))
        return delivered | ({pending[0]} if pending else set())

    def series_is_wrong(self, name, runs):
        """runs: [(hf-due, when it was delivered)]"""
        (first, *_), (last, *_) = self.ops[name][0], self.ops[name][-1]
        began, ended = self.at.get(first), self.at.get(last)
        if began is None or ended is None:
            return None
        due_ms = minute_after(began)
        for run_ms, at_ms in sorted(runs):
            if run_ms != due_ms or at_ms < run_ms:
                return f"a run due {run_ms}, delivered {at_ms}; expected {due_ms}"
            due_ms = minute_after(max(run_ms, at_ms))
        return f"no run at {due_ms}, ended at {ended}" if due_ms <= ended else None

    def verify(self, verdict, read):
        """read(): every message of the topic as (partition, offset, timestamp, text, headers). Waits for what is due."""
        wanted = {name: self.expected(name) for name in self.ops if name.startswith("s")}
        due = set().union(*(texts for texts in wanted.values() if texts))
        deadline = time.monotonic() + 120
        while True:
            found = read()
            counts = collections.Counter(text for _, _, _, text, _ in found)
            if due <= set(counts) or time.monotonic() > deadline:
                break
            time.sleep(0.2)
        sent = {text for ops in self.ops.values() for _, _, text, _ in ops if text}
        verdict.say(set(counts) <= sent, "named: messages nobody sent", set(counts) - sent)
        twice = [t for t, c in counts.items() if c > 1 and not t.startswith("c")]
        verdict.say(not twice, f"named: {len(twice)} messages are there more than once", twice)
        wrong = [(name, texts, {t for t in counts if t.split(".")[0] == name}) for name, texts in wanted.items()
                 if texts is not None and any((counts[t] > 0) != (t in texts) for _, _, t, _ in self.ops[name] if t)]
        verdict.say(not wrong, f"named: {len(wrong)} ids have delivered what they should not, or not what they should", wrong)
        early = [(text, ms, h["hf-due"]) for _, _, ms, text, h in found if ms < int(h["hf-due"])]
        verdict.say(not early, f"named: {len(early)} came early", early)
        runs = collections.defaultdict(list)
        for _, _, ms, text, headers in found:
            if text.startswith("c"):
                runs[text].append((int(headers["hf-due"]), ms))
        wrong = [(f"c{i}", why) for i in range(SERIES) if (why := self.series_is_wrong(f"c{i}", runs[f"c{i}"]))]
        verdict.say(not wrong, f"named: {len(wrong)} recurring schedules have wrong runs", wrong)
        known = sum(texts is not None for texts in wanted.values())
        verdict.say(known > len(wanted) // 2, f"named: of {len(wanted)} ids only {known} are known: the load did not run")
        kinds = collections.Counter(kind for ops in self.ops.values() for _, kind, _, _ in ops)
        print(f"named: {len(wanted)} ids, {known} of them known for sure, {dict(kinds)}, {len(found)} delivered, "
              f"{sum(map(len, runs.values()))} runs of {SERIES} series")

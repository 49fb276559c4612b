"""Judges what the order-payment flow has left behind. Shares no code with Holdfast: it reads the topics with
python3-kafka, the shop's SQLite file, the services' PostgreSQL, the server's HTTP answers, and the trace that the shop's
programs wrote.

The upper half of its table proves that what should have been provoked was: a zero there fails. The lower half are
the invariants: a number other than zero there fails.
"""

import collections
import contextlib
import json
import sqlite3
import sys
import urllib.request

import psycopg2
from kafka import KafkaConsumer, TopicPartition

NEAR_MS = 10


class Evidence:
    """Everything that can be seen from outside, read once."""

    def __init__(self, plan):
        self.plan = plan
        with open(plan["trace"]) as f:
            self.trace = [json.loads(line) for line in f]
        self.topics = {t: self.read(t) for t in ("orders.placed", "orders.unpaid", "orders.paid", "orders.refund")}
        self.checks = self.written("holdfast.check.order-service")
        self.dead = {g: self.read("dlq." + g) for g in plan["groups"] + ["unpaid"]}
        with contextlib.closing(sqlite3.connect(plan["orders"])) as db:
            db.row_factory = sqlite3.Row
            self.orders = {r["id"]: r for r in db.execute("SELECT * FROM orders")}
            self.stock = list(db.execute("SELECT * FROM stock"))
            self.coupons = {r["code"]: r for r in db.execute("SELECT * FROM coupons")}
            self.payments = list(db.execute("SELECT * FROM payments"))
        with contextlib.closing(psycopg2.connect(plan["postgres"])) as pg, pg.cursor() as c:
            c.execute("SELECT order_id, sku, quantity FROM inventory")
            self.inventory = c.fetchall()
            c.execute("SELECT order_id FROM points")
            self.points = c.fetchall()
            c.execute("SELECT code, order_id, uses FROM coupon_usage")
            self.usage = c.fetchall()

    def read(self, topic):
        """All records of a topic; none if there is no such topic."""
        consumer = KafkaConsumer(bootstrap_servers=self.plan["server"], enable_auto_commit=False)
        if topic not in consumer.topics():
            consumer.close()
            return []
        parts = [TopicPartition(topic, p) for p in consumer.partitions_for_topic(topic)]
        consumer.assign(parts)
        consumer.seek_to_beginning()
        ends = consumer.end_offsets(parts)
        records = []
        while any(consumer.position(p) < ends[p] for p in parts):
            for batch in consumer.poll(1000).values():
                records += batch
        consumer.close()
        return records

    def written(self, topic):
        """How many records were ever put there, those included that are gone."""
        consumer = KafkaConsumer(bootstrap_servers=self.plan["server"], enable_auto_commit=False)
        parts = [TopicPartition(topic, p) for p in consumer.partitions_for_topic(topic) or ()]
        ends = consumer.end_offsets(parts)
        consumer.close()
        return sum(ends.values())

    def api(self, path):
        with urllib.request.urlopen(f"http://{self.plan['api']}{path}", timeout=10) as r:
            return json.load(r)

    def events(self, kind, **match):
        return [e for e in self.trace if e["event"] == kind and all(e.get(k) == v for k, v in match.items())]

    def with_status(self, *statuses):
        return {i for i, o in self.orders.items() if o["status"] in statuses}


def header(record, name):
    """The last header of that name as text, or None."""
    values = [v for k, v in record.headers if k == name]
    return values[-1].decode() if values and values[-1] is not None else None


def key(record):
    return record.key.decode() if record.key is not None else None


def repeats(counted):
    return sum(n - 1 for n in counted.values())


def dues(e):
    return {key(r): int(header(r, "hf-due")) for r in e.topics["orders.unpaid"]}


# ---- what was provoked ----

def fields(event):
    """key=value pairs of a log line's text."""
    return dict(word.split("=", 1) for word in event["text"].split() if "=" in word)


def place_of(event):
    at = event if "topic" in event else fields(event)
    return event["group"], at["topic"], int(at["partition"]), int(at["offset"])


def redelivered_after(e, moment_ms):
    """Messages that some handler had been given before that moment, and that came again, from the log, after it. What
    a killed worker left behind does not count: that comes again anyway."""
    before, after = set(), collections.Counter()
    victims = {k["victim"] for k in e.events("killed")}
    for event in e.trace:
        if event["event"] not in ("run", "duplicate"):
            continue
        if event["at"] <= moment_ms:
            if event["pid"] not in victims:
                before.add(place_of(event))
        elif event["event"] == "duplicate" or event["attempt"] == 1:
            after[place_of(event)] += 1
    return sum(n for place, n in after.items() if place in before)


def suppressed(e, group):
    stats = e.events("stats", group=group)
    counted = sum(s["duplicates"] + s["stale"] for s in stats)
    return max(counted, len(e.events("duplicate", group=group)))


def provoked(e):
    answers = collections.Counter(c["answer"] for c in e.events("check"))
    due = dues(e)
    near = [p for p in e.payments if p["order_id"] in due and abs(p["at_ms"] - due[p["order_id"]]) <= NEAR_MS]
    kills = e.events("killed")
    server = e.events("server-killed")
    died = {d["victim"] for d in e.events("service-died")}
    fault = collections.Counter(f["what"] for f in e.events("fault") if f["what"] == "slow" or f["pid"] in died)
    copies = collections.Counter(header(r, "hf-message-id") for r in e.topics["orders.paid"])
    rows = [("services killed between local commit and decision", fault["die-after"]),
            ("services killed before the local commit", fault["die-before"]),
            ("local transactions slower than hf-check-after", fault["slow"]),
            ("checks asked", e.checks),
            ("  answered commit", answers["commit"]),
            ("  answered rollback, with a void row", len(e.with_status("void"))),
            (f"payments within {NEAR_MS} ms of their due time", len(near)),
            ("payments after the order was cancelled (refunds)", len(e.with_status("refunded"))),
            ("duplicates delivered: the same message id in orders.paid", repeats(copies))]
    rows += [(f"duplicates suppressed by {how} ({group})", suppressed(e, group))
             for group, how in (("inventory", "a row in the transaction"), ("points", "Redis"), ("coupon", "the version"))
             if not e.plan["no_dedup"]]
    rows += [(f"kills inside a handler of {g}", len([k for k in kills if k["group"] == g])) for g in e.plan["groups"]]
    rows += [("handler calls that were retries", len([r for r in e.events("run") if r["attempt"] > 1])),
             ("kills of the server", len(server)),
             ("redeliveries after a kill of the server", max((redelivered_after(e, s["at"]) for s in server), default=0))]
    return rows


# ---- what must hold ----

def stock_is_constant(e):
    wrong = [s["sku"] for s in e.stock if s["available"] + s["reserved"] + s["sold"] != s["initial"]]
    sold = collections.Counter()
    for i in e.with_status("paid"):
        sold[e.orders[i]["sku"]] += e.orders[i]["quantity"]
    return wrong + [s["sku"] for s in e.stock if s["sold"] != sold[s["sku"]] or s["reserved"] != 0]


def once_each(rows, wanted):
    counted = collections.Counter(rows)
    return [i for i in wanted if counted[i] != 1] + [i for i in counted if i not in wanted]


def refunds(e):
    """An order that was cancelled and for which money came: exactly one refund message; nobody else gets one."""
    given = collections.Counter(key(r) for r in e.topics["orders.refund"])
    paid_for = {p["order_id"] for p in e.payments if p["status"] != "void"}
    cancelled = e.with_status("cancelled", "refunded")
    return once_each(given.elements(), paid_for & cancelled) + sorted(e.with_status("refunded") - paid_for)


def coupons(e):
    used = {code: order for code, order, _ in e.usage}
    wrong = [code for code, _, uses in e.usage if uses != 1]
    for code, c in e.coupons.items():
        if (c["status"] == "used") != (code in used) or (code in used and used[code] != c["order_id"]):
            wrong.append(code)
        if c["status"] == "locked":
            wrong.append(code)
    return wrong


def announced(e, topic):
    """Each order that was really placed has one message there, any other none."""
    return once_each((key(r) for r in e.topics[topic]), set(e.orders) - e.with_status("void"))


def undecided(e):
    return [f"{t['group']}/{t['id']} {t['state']}" for t in e.api("/v1/txn")["transactions"]]


def unresolved(e):
    """Orders of which a service died or dawdled, and that are neither an order nor void."""
    return [i for i, f in e.plan["faults"].items() if f in ("die-after", "die-before", "slow") and i not in e.orders]


def poison(e):
    wrong = []
    for group in e.plan["groups"]:
        found = collections.Counter((header(r, "hf-message-id"), header(r, "hf-dlq-reason")) for r in e.dead[group])
        wrong += once_each(found.elements(), set(e.plan["poison"].items()))
    return wrong + [key(r) for r in e.dead["unpaid"]]


def early(e):
    return [key(r) for r in e.topics["orders.unpaid"] if r.timestamp < int(header(r, "hf-due"))]


def invariants(e):
    paid = e.with_status("paid")
    return [("stock + reserved + sold is what it was, sold is what was paid", stock_is_constant(e)),
            ("each paid order has exactly one inventory row", once_each((r[0] for r in e.inventory), paid)),
            ("each paid order has exactly one points row", once_each((r[0] for r in e.points), paid)),
            ("no order is both paid and cancelled without a refund", refunds(e)),
            ("no coupon is both used and free, none used twice", coupons(e)),
            ("each placed order is in orders.placed once, no other", announced(e, "orders.placed")),
            ("each placed order is in orders.unpaid once, no other", announced(e, "orders.unpaid")),
            ("each order is settled", sorted(e.with_status("pending"))),
            ("no half is undecided or parked", undecided(e)),
            ("every interrupted order was resolved by a check", unresolved(e)),
            ("every poison message is on each dlq once, with its reason", poison(e)),
            ("nothing came early (timestamp >= hf-due)", early(e))]


def lateness(e):
    late = sorted(r.timestamp - int(header(r, "hf-due")) for r in e.topics["orders.unpaid"])
    if not late:
        return "none"
    return f"p50 {late[len(late) // 2]} ms, p99 {late[len(late) * 99 // 100]} ms, max {late[-1]} ms ({len(late)} messages)"


def main():
    with open(sys.argv[1]) as f:
        plan = json.load(f)
    e = Evidence(plan)
    failed = 0
    statuses = collections.Counter(o["status"] for o in e.orders.values())
    print("\n  orders: " + ", ".join(f"{n} {s}" for s, n in sorted(statuses.items())))
    print("\n  provoked" + " " * 59 + "count")
    for name, count in provoked(e):
        failed += count == 0
        print(f"    {name:<60} {count:>8}{'' if count else '   NOT PROVOKED'}")
    print("\n  must hold" + " " * 55 + "violations")
    for name, wrong in invariants(e):
        failed += bool(wrong)
        example = f"   e.g. {', '.join(str(w) for w in wrong[:4])}" if wrong else ""
        print(f"    {name:<60} {len(wrong):>8}{example}")
    print(f"\n  lateness of delayed messages: {lateness(e)}")
    print(f"\n  VERDICT: {'everything held' if not failed else f'{failed} lines FAILED'}\n", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

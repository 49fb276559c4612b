"""Plays the order-payment flow: starts the servers and the shop's programs, sends customers, breaks things, and lets
verdict.py judge. See README.md beside it for the story; `scripts/demo` builds first.

All faults follow one seed, which is printed. The machine's timing does not, so two runs differ in which message is
caught in the middle, never in what must hold.
"""

import argparse
import contextlib
import heapq
import json
import os
import queue
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import urllib.request

import psycopg2
from kafka import KafkaConsumer, TopicPartition
from kafka.admin import KafkaAdminClient, NewTopic
from kafka.errors import KafkaError

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.join(ROOT, "tests", "support"))
import servers  # noqa: E402
from holdfast import Holdfast  # noqa: E402
from until import until  # noqa: E402

# The demo's own overrides; in life: 30 minutes to pay, a check after 6 s, no failures on purpose.
DELAY_MS = 3000
CHECK_AFTER_MS = 700
FAIL_PERCENT = 8
PARTITIONS = 4
PLACE_SERVICES = 6
PAY_SERVICES = 3
PUNCTUAL_SERVICES = 2  # for the payments that aim at the millisecond in which the order is cancelled
SKUS = 10
GROUPS = ["inventory", "points", "coupon"]
POISON = {f"{i}": "reject" if i % 2 else "never" for i in range(1, 7)}
SERVER_KILLS = 3  # one may find nothing between a handler's end and the commit of its offset
PATIENCE_S = 120  # more than it takes on a machine that is busy with other things; nothing waits so long without need


def say(text):
    print(f"[{time.monotonic() - STARTED:5.1f} s] {text}", flush=True)


class Program:
    """One of the shop's programs as a child process that answers each line with a line."""

    def __init__(self, shop, name, *args, **more):
        self.process = subprocess.Popen([os.path.join(shop.build, "examples", "shop_" + name), *args],
                                        env={**shop.environment, **more}, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=shop.errors, text=True, start_new_session=True)

    def ask(self, line):
        """The answer, or None if it died."""
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return None
        return self.process.stdout.readline().strip() or None

    def end(self, how=None):
        """Asks it to end, by the end of its input or a signal; wait() then sees that it did."""
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        if how and self.process.poll() is None:
            self.process.send_signal(how)

    def wait(self, seconds=PATIENCE_S):
        """True if it ended by itself, and well."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        return self.process.returncode == 0


class Plan:
    """What happens to which order, decided before anything starts."""

    def __init__(self, orders, seed):
        dice = random.Random(seed)
        self.ids = [str(n) for n in range(1, orders + 1)]
        shuffled = dice.sample(self.ids, orders)
        self.fault = dict.fromkeys(self.ids, "none")
        for name, share in (("die-after", 10), ("die-before", 20), ("slow", 50)):
            for _ in range(max(1, orders // share)):
                self.fault[shuffled.pop()] = name
        self.lines = {i: f"{i} sku-{dice.randrange(SKUS)} {dice.randint(1, 3)} C{dice.randrange(max(1, orders * 2 // 3))} "
                         f"{self.fault[i]}" for i in self.ids}
        # Seconds after the order became visible at which it is paid; the unpaid message is due after DELAY_MS.
        due = DELAY_MS / 1000
        self.pay_after = {}
        for i in dice.sample(self.ids, orders * 2 // 3):
            kind = dice.random()
            if kind < 0.25:
                self.pay_after[i] = due + dice.uniform(-0.008, 0.002)
            elif kind < 0.33:
                self.pay_after[i] = due + dice.uniform(0.1, 1.0)
            else:
                self.pay_after[i] = dice.uniform(0.1, due - 0.3)
        self.twice = set(dice.sample(sorted(self.pay_after), len(self.pay_after) // 8))


class Payments:
    """Who pays what when, for the threads that play the bank. Who wants to hit a millisecond has to begin earlier by the time
    that it takes until the money is booked: that is learnt from payment to payment."""

    def __init__(self):
        self.heap = []  # (when, order, number of the payment; 0: poison)
        self.lead = 0.0  # seconds
        self.changed = threading.Condition()
        self.open = 0  # not answered yet

    def put(self, when, order, number):
        with self.changed:
            heapq.heappush(self.heap, (when, order, number))
            self.open += 1
            self.changed.notify()

    def take(self, done):
        """The next one when its time has come; None at the end."""
        with self.changed:
            while not done.is_set():
                wait = self.heap[0][0] - self.lead - time.time() if self.heap else 0.2
                if self.heap and wait <= 0:
                    return heapq.heappop(self.heap)
                self.changed.wait(min(wait, 0.2))
        return None

    def settled(self):
        with self.changed:
            self.open -= 1

    def took(self, seconds, answer):
        """The booking is in the middle of a transaction; a refund is two of them."""
        share = {"paid": 0.5, "refund": 0.25}.get(answer)
        with self.changed:
            if share:
                self.lead += 0.3 * (min(seconds * share, 1.0) - self.lead)


class Shop:
    def __init__(self, options, folder, redis, postgres, server):
        self.options, self.folder, self.server = options, folder, server
        self.build = os.path.join(ROOT, options.build)
        self.plan = Plan(options.orders, options.seed)
        self.trace_file = os.path.join(folder, "trace.jsonl")
        self.orders_file = os.path.join(folder, "orders.db")
        self.postgres_url = postgres.url
        self.errors = open(os.path.join(folder, "programs.log"), "a")
        self.environment = {**os.environ, "SHOP_SERVER": server.kafka, "SHOP_API": server.http,
                            "SHOP_ORDERS": self.orders_file, "SHOP_POSTGRES": postgres.url, "SHOP_REDIS": redis.url,
                            "SHOP_DEDUP": "0" if options.no_dedup else "1", "SHOP_DELAY": str(DELAY_MS),
                            "SHOP_CHECK_AFTER": str(CHECK_AFTER_MS), "SHOP_TRACE": self.trace_file,
                            "SHOP_FAIL": str(FAIL_PERCENT)}
        self.workers = {}  # (group, number) → Program
        self.checker = None
        self.threads = []
        self.to_place = queue.Queue()
        self.payments = Payments()
        self.punctual = Payments()
        self.placed_seen = set()
        self.done = threading.Event()
        self.failures = []
        self.count = {"placed": 0, "died": 0, "refused": 0, "open": 0, "paid": 0, "refund": 0, "not paid": 0}
        self.count_lock = threading.Lock()

    # ---- setting up ----

    def prepare(self):
        with open(os.path.join(HERE, "orders.sql")) as f, contextlib.closing(sqlite3.connect(self.orders_file)) as db:
            db.execute("PRAGMA journal_mode = WAL")
            db.executescript(f.read())
            stock = self.options.orders * 3
            db.executemany("INSERT INTO stock VALUES (?, ?, ?, 0, 0)", [(f"sku-{n}", stock, stock) for n in range(SKUS)])
            db.executemany("INSERT INTO coupons VALUES (?, 'free', NULL, 0)",
                           [(f"C{n}",) for n in range(max(1, self.options.orders * 2 // 3))])
            db.commit()
        with open(os.path.join(HERE, "services.sql")) as f, contextlib.closing(psycopg2.connect(self.postgres_url)) as pg:
            with pg, pg.cursor() as c:
                c.execute(f.read())
        admin = KafkaAdminClient(bootstrap_servers=self.server.kafka)
        admin.create_topics([NewTopic(t, PARTITIONS, 1) for t in
                             ("orders.placed", "orders.unpaid", "orders.paid", "orders.refund")])
        admin.close()

    def stall_file(self, group):
        return os.path.join(self.folder, f"stall-{group}")

    def start_worker(self, group, number):
        self.workers[group, number] = Program(self, group, SHOP_STALL=self.stall_file(group))

    def start(self):
        for group in GROUPS + ["unpaid"]:
            for number in (1, 2):
                self.start_worker(group, number)
        self.checker = Program(self, "place", "--check")
        self.hand_in(self.plan.ids[:self.first_wave()])
        jobs = [self.place] * PLACE_SERVICES + [self.customers]
        jobs += [lambda: self.pay(self.payments)] * PAY_SERVICES + [lambda: self.pay(self.punctual)] * PUNCTUAL_SERVICES
        self.threads = [threading.Thread(target=self.guarded, args=(job,), daemon=True) for job in jobs]
        for t in self.threads:
            t.start()

    def guarded(self, job):
        try:
            job()
        except Exception:  # a thread's failure is the demo's
            self.failures.append(traceback.format_exc())

    def add(self, what):
        with self.count_lock:
            self.count[what] = self.count.get(what, 0) + 1

    # ---- placing: each service lives until a fault kills it, then another starts ----

    def first_wave(self):
        """The other orders wait until the workers were killed: so the server is killed amid work on any machine."""
        return self.options.orders // 2

    def hand_in(self, orders):
        for order in orders:
            self.to_place.put(order)

    def place(self):
        service = None
        while (order := self.to_place.get()) is not None:
            service = service or Program(self, "place")
            answer = service.ask(self.plan.lines[order])
            self.add(answer.split()[0] if answer else "died")
            if answer is None:
                service.wait()
                self.note(event="service-died", order=order, victim=service.process.pid)
                service = None
        if service:
            self.finish("place", service)

    def finish(self, name, program, how=None):
        program.end(how)
        if not program.wait():
            self.failures.append(f"{name} did not end well: status {program.process.returncode}")

    # ---- customers see their orders and pay, or do not ----

    def customers(self):
        consumer = KafkaConsumer(bootstrap_servers=self.server.kafka, enable_auto_commit=False, fetch_max_wait_ms=20)
        consumer.assign([TopicPartition("orders.placed", n) for n in range(PARTITIONS)])
        consumer.seek_to_beginning()
        while not self.done.is_set():
            try:
                batches = consumer.poll(100)
            except KafkaError:
                continue
            for record in (r for batch in batches.values() for r in batch):
                order = record.key.decode()
                after = self.plan.pay_after.get(order)
                if order in self.placed_seen or after is None:
                    continue
                self.placed_seen.add(order)
                punctual = abs(after - DELAY_MS / 1000) < 0.05
                (self.punctual if punctual else self.payments).put(record.timestamp / 1000 + after, order, 1)
        consumer.close()

    def pay(self, payments):
        service = Program(self, "pay")
        while (payment := payments.take(self.done)):
            _, order, number = payment
            began = time.monotonic()
            answer = service.ask(f"poison {order} {POISON[order]}" if number == 0 else f"{order} {number}")
            word = answer.split()[0] if answer else "died"
            if payments is self.punctual and number == 1:
                payments.took(time.monotonic() - began, word)
            if word in ("again", "died"):
                payments.put(time.time() + 0.2, order, number)  # the customer's bank asks until it is answered
                if answer is None:
                    service.wait()
                    service = Program(self, "pay")
            else:
                self.add({"refused": "not paid"}.get(word, word))
                if number == 1 and word == "paid" and order in self.plan.twice:
                    payments.put(time.time() + random.uniform(0.01, 1.0), order, 2)
            payments.settled()
        self.finish("pay", service)

    # ---- breaking things ----

    def note(self, **event):
        with open(self.trace_file, "a") as f:
            f.write(json.dumps({"at": int(time.time() * 1000), "pid": 0, **event}) + "\n")

    def events(self, kind):
        with contextlib.suppress(FileNotFoundError):
            with open(self.trace_file) as f:
                return [e for e in (json.loads(line) for line in f if line.endswith("\n")) if e["event"] == kind]
        return []

    def placed(self):
        """Of the wave under way, about."""
        return self.first_wave() - self.to_place.qsize()

    def kill_workers(self):
        """One of each group, in the middle of a handler: the one that took the stall file sleeps there."""
        for group in GROUPS:
            open(self.stall_file(group), "w").close()
        waiting = {p.process.pid: key for key, p in self.workers.items() if key[0] in GROUPS}
        end = time.monotonic() + PATIENCE_S
        killed = set()
        while len(killed) < len(GROUPS) and time.monotonic() < end:
            for pid in {e["pid"] for e in self.events("stalled")} & set(waiting) - killed:
                group, number = waiting[pid]
                self.workers[group, number].process.kill()
                self.workers[group, number].process.wait()
                killed.add(pid)
                self.note(event="killed", group=group, victim=pid)
                self.start_worker(group, number)
                say(f"SIGKILL to a worker of {group} in the middle of a handler; started again")
            time.sleep(0.02)

    def whole(self):
        """Some message of each killed worker has come again, so its group has been dealt out anew. Until then the group
        gets nothing, and the other orders would pass without it."""
        runs = self.events("run")
        place = lambda e: (e["topic"], e["partition"], e["offset"])
        for kill in self.events("killed"):
            held = {place(e) for e in runs if e["pid"] == kill["victim"]}
            if not any(e["at"] > kill["at"] and e["group"] == kill["group"] and place(e) in held for e in runs):
                return False
        return True

    def busy(self):
        """Handlers have been at work in the last moment, so that commits of offsets are under way. Of some group is
        enough."""
        now = time.time() * 1000
        return len([e for e in self.events("run") if now - e["at"] < 300]) >= 6

    def kill_server(self):
        with contextlib.suppress(TimeoutError):
            until(self.busy, "busy workers", seconds=PATIENCE_S / 4)
        self.note(event="server-killed")
        self.server.stop(signal.SIGKILL)
        self.server.start()
        self.note(event="server-started")
        say("SIGKILL to the server; started again")

    def wait_placed(self, share):
        """That no order is placed for PATIENCE_S is the demo's failure."""
        wanted, placed, end = min(self.options.orders * share, self.first_wave()), None, 0
        while not self.failures:
            before, placed = placed, self.placed()
            if placed >= wanted:
                return
            if placed != before:
                end = time.monotonic() + PATIENCE_S
            elif time.monotonic() > end:
                self.failures.append(f"no order was placed for {PATIENCE_S} s: {placed} of this wave's {wanted:.0f} are")
            time.sleep(0.05)

    def join(self, threads):
        end = time.monotonic() + PATIENCE_S
        for t in threads:
            t.join(max(0.0, end - time.monotonic()))
        if any(t.is_alive() for t in threads):
            self.failures.append(f"a thread does not end for {PATIENCE_S} s")

    def play(self):
        self.start()
        self.wait_placed(0.2)
        for order in POISON:
            self.payments.put(time.time(), order, 0)
        self.wait_placed(0.35)
        self.kill_workers()
        with contextlib.suppress(TimeoutError):
            until(self.whole, "the groups without their killed workers", seconds=PATIENCE_S / 4)
        rest = self.plan.ids[self.first_wave():]
        for number in range(SERVER_KILLS):
            self.hand_in(rest[number::SERVER_KILLS])
            self.wait_placed(0.25)
            self.kill_server()
        self.hand_in([None] * PLACE_SERVICES)
        self.wait_placed(0.5)
        self.join(self.threads[:PLACE_SERVICES])
        say("all orders handed in: " + ", ".join(f"{n} {what}" for what, n in sorted(self.count.items()) if n))

    # ---- the end ----

    def lag(self, group, topic):
        consumer = KafkaConsumer(bootstrap_servers=self.server.kafka, group_id=group, enable_auto_commit=False)
        parts = [TopicPartition(topic, n) for n in range(PARTITIONS)]
        ends = consumer.end_offsets(parts)
        behind = sum(ends[p] - (consumer.committed(p) or 0) for p in parts)
        consumer.close(autocommit=False)
        return behind

    def undecided(self):
        with contextlib.suppress(OSError, ValueError, KeyError):
            with urllib.request.urlopen(f"http://{self.server.http}/v1/txn", timeout=5) as r:
                return len(json.load(r)["transactions"])
        return -1

    def unfinished(self):
        with contextlib.closing(sqlite3.connect(self.orders_file)) as db:
            pending = db.execute("SELECT count(*) FROM orders WHERE status = 'pending'").fetchone()[0]
        left = {"orders pending": pending, "payments to come": self.payments.open + self.punctual.open}
        left["transactions undecided"] = self.undecided()
        if any(left.values()):
            return left
        for group in GROUPS:
            left[f"messages before {group}"] = self.lag(group, "orders.paid")
        left["messages before unpaid"] = self.lag("unpaid", "orders.unpaid")
        return left

    def settle(self):
        """Waits until nothing is left to do, or for so long that the verdict should say what is."""
        end = time.monotonic() + PATIENCE_S
        while not self.failures:
            try:
                left = self.unfinished()
            except KafkaError as e:
                left = {str(e): 1}
            if not any(left.values()):
                say("everything is settled")
                return
            if time.monotonic() > end:
                say("not settled: " + ", ".join(f"{n} {what}" for what, n in left.items() if n))
                return
            time.sleep(0.25)

    def stop(self):
        self.done.set()
        self.join(self.threads)
        for p in self.workers.values():
            p.end(signal.SIGTERM)
        for key, p in self.workers.items():
            self.finish(f"a worker of {key[0]}", p)
        if self.checker:
            self.finish("place --check", self.checker)

    def judge(self):
        plan = {"server": self.server.kafka, "api": self.server.http, "orders": self.orders_file,
                "postgres": self.postgres_url, "trace": self.trace_file, "partitions": PARTITIONS, "groups": GROUPS,
                "faults": self.plan.fault, "pay": sorted(self.plan.pay_after), "twice": sorted(self.plan.twice),
                "no_dedup": self.options.no_dedup, "poison": {f"poison-{i}": "rejected" if what == "reject" else "exhausted" for i, what in POISON.items()}}
        path = os.path.join(self.folder, "plan.json")
        with open(path, "w") as f:
            json.dump(plan, f)
        return subprocess.run(["/usr/bin/python3", "-B", os.path.join(HERE, "verdict.py"), path]).returncode


def run(options, folder):
    binary = os.path.join(ROOT, options.build, "holdfast")
    with servers.Redis(folder) as redis, servers.Postgres(folder) as postgres, \
            Holdfast(binary, os.path.join(folder, "holdfast"), same_ports=True) as server:
        say(f"{options.orders} orders, seed {options.seed}"
            + (", deduplication is OFF" if options.no_dedup else "") + f"; everything in {folder}")
        shop = Shop(options, folder, redis, postgres, server)
        try:
            shop.prepare()
            shop.play()
            shop.settle()
        finally:
            shop.stop()
        if shop.failures:
            print("\n".join(shop.failures), file=sys.stderr)
            return 1
        status = shop.judge()
        say("done")
        return status


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--orders", type=int, default=1000, help="default 1000; below 200 some faults may not happen")
    parser.add_argument("--no-dedup", action="store_true", help="must end in violations")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 31))
    parser.add_argument("--keep", action="store_true", help="keep the temporary folder")
    parser.add_argument("--build", default="build", help="folder of the built programs")
    options = parser.parse_args()
    if options.keep:
        return run(options, tempfile.mkdtemp(prefix="holdfast-demo-"))
    with tempfile.TemporaryDirectory(prefix="holdfast-demo-", ignore_cleanup_errors=True) as folder:
        return run(options, folder)


STARTED = time.monotonic()
signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # through the cleaning up
if __name__ == "__main__":
    sys.exit(main())

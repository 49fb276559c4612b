#!/usr/bin/python3
"""Workers against a real server: killed in the middle, restarted, rebalanced; then what must hold is counted.

    test_worker.py HOLDFAST PROBE [--server HOST:PORT]      default: starts HOLDFAST serve on free ports

Each case sends messages (every third of them twice, with the same identity), lets two workers work, kills one with
SIGKILL several times, and waits until the group has settled everything.
"""
import contextlib, json, os, random, shutil, signal, socket, sqlite3, subprocess, sys, tempfile, time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
sys.dont_write_bytecode = True
import psycopg2  # noqa: E402
import servers  # noqa: E402
from holdfast import Holdfast  # noqa: E402
from until import until  # noqa: E402


HOLDFAST, PROBE = map(os.path.abspath, sys.argv[1:3])
GIVEN = sys.argv[sys.argv.index("--server") + 1] if "--server" in sys.argv else None
COUNT, KEYS, KILLS = 240, 12, 3
SEED = int(os.environ.get("SEED", time.time_ns() % 100000))
random.seed(SEED)
children = []


def start(args, **kw):
    p = subprocess.Popen(args, **kw)
    children.append(p)
    return p


class Server:
    """The server under test; with --server one that is not ours, and never killed."""

    def __init__(self, folder):
        own = None if GIVEN else Holdfast(HOLDFAST, folder + "/holdfast", "--num.partitions=4", same_ports=True)
        self.own = own and own.start()
        self.kafka, self.http = (GIVEN, "127.0.0.1:1") if GIVEN else (self.own.kafka, self.own.http)

    def crash(self):
        if self.own:
            self.own.stop(signal.SIGKILL)
            self.own.start()

    def stop(self):
        return self.own.stop() if self.own else 0

    def cli(self, *args, check=True):
        r = subprocess.run([HOLDFAST, *args, "--server", self.kafka, "--api", self.http], capture_output=True, text=True)
        assert r.returncode == 0 or not check, (args, r.stderr)
        return r.stdout

    def settled(self, group, topic, count=None):
        rows = [json.loads(l) for l in self.cli("group", "describe", group, "--json", check=False).splitlines()]
        rows = [r for r in rows if r["topic"] == topic]
        return bool(rows) and all(r["unsettled"] == 0 for r in rows) and \
            (count is None or sum(r["offset"] for r in rows) >= count)


def total(server, topic):
    return sum(int(l.split("end=")[1]) for l in server.cli("topic", "describe", topic).splitlines())


def tail(path):
    with open(path, errors="replace") as f:
        return f.read()[-4000:]


def run_case(server, folder, kind, store, finished=lambda log: True, name=None):
    name = name or kind
    topic, group, log = "t-" + name, "g-" + name, "%s/%s.log" % (folder, name)
    server.cli("topic", "create", topic, "--partitions", "4", check=False)
    subprocess.run([PROBE, "send", server.kafka, topic, str(COUNT), str(KEYS)], check=True)
    errors = open("%s/%s.err" % (folder, name), "a")
    args = [PROBE, "work", server.kafka, group, topic, kind, store, log]
    begin = lambda: start(args, stdout=subprocess.PIPE, text=True, stderr=errors)
    workers = [begin() for _ in range(2)]
    for _ in range(KILLS):
        time.sleep(random.uniform(0.2, 1.2))
        i = random.randrange(2)
        workers[i].send_signal(signal.SIGKILL)
        workers[i].wait()
        workers[i] = begin()
    server.crash()
    sent = total(server, topic)
    until(lambda: server.settled(group, topic, sent), "%s settled" % name)
    until(lambda: finished(log), "%s finished" % name)
    for w in workers:  # one that was only just started may not have taken its signals yet
        assert w.stdout.readline() == "ready\n", "no worker: status %s\n%s" % (w.wait(30), tail(errors.name))
        w.send_signal(signal.SIGTERM)
    for w in workers:
        assert w.wait(30) == 0, "a worker that was asked to stop: status %d\n%s" % (w.returncode, tail(errors.name))
    return topic, group, log


def lines(log):
    return [l.split() for l in open(log)]


def case_database(server, folder):
    db = folder + "/effects.db"
    with sqlite3.connect(db) as c:
        c.execute("PRAGMA journal_mode=WAL")
        c.execute("CREATE TABLE effect (id TEXT, key TEXT)")
    run_case(server, folder, "database", "sqlite:" + db)
    with sqlite3.connect(db) as c:
        rows = [r[0] for r in c.execute("SELECT id FROM effect")]
    assert sorted(map(int, rows)) == list(range(COUNT)), "rows %d, different %d, of %d" % (len(rows), len(set(rows)), COUNT)


def case_expiry(server, folder):
    """What the database case has left is forgotten once it is older than the horizon."""
    count = lambda: sqlite3.connect(folder + "/effects.db").execute("SELECT count(*) FROM holdfast_dedup").fetchone()[0]
    assert count() == COUNT, count()
    p = start([PROBE, "work", server.kafka, "g-database", "t-database", "database", "sqlite:" + folder + "/effects.db",
               "-"], stdout=subprocess.PIPE, text=True, env=dict(os.environ, HORIZON_MS="1000"))
    until(lambda: count() == 0, "all is forgotten")
    assert p.stdout.readline() == "ready\n"
    p.send_signal(signal.SIGTERM)
    assert p.wait(30) == 0


STATE = 'SELECT key, version, value, "Told", none FROM state'


def newest_won(rows):
    newest = {"k%d" % k: max(range(k, COUNT, KEYS)) for k in range(KEYS)}
    assert sorted(rows) == sorted((key, n, str(n), n, None) for key, n in newest.items()), rows


def case_postgres(server, folder):
    with servers.Postgres(folder) as postgres:
        with contextlib.closing(psycopg2.connect(postgres.url)) as c, c, c.cursor() as q:
            q.execute("CREATE TABLE effect (id TEXT, key TEXT)")
            q.execute("CREATE TABLE state (key TEXT PRIMARY KEY, version INTEGER, value TEXT, \"Told\" INTEGER, none TEXT)")
        run_case(server, folder, "database", postgres.url, name="postgres-database")
        run_case(server, folder, "state", postgres.url, name="postgres-state")
        with contextlib.closing(psycopg2.connect(postgres.url)) as c, c.cursor() as q:
            q.execute("SELECT id FROM effect")
            rows = sorted(int(r[0]) for r in q.fetchall())
            q.execute("SELECT count(*) FROM holdfast_dedup")
            assert rows == list(range(COUNT)) and q.fetchone() == (COUNT,), "rows %d of %d" % (len(rows), COUNT)
            q.execute(STATE)
            newest_won(q.fetchall())


def case_state(server, folder):
    db = folder + "/state.db"
    with sqlite3.connect(db) as c:
        c.execute("PRAGMA journal_mode=WAL")
        c.execute("CREATE TABLE state (key TEXT PRIMARY KEY, version INTEGER, value TEXT, \"Told\" INTEGER, none TEXT)")
    run_case(server, folder, "state", "sqlite:" + db)
    with sqlite3.connect(db) as c:
        newest_won(c.execute(STATE).fetchall())


def case_external(server, folder):
    with servers.Redis(folder) as redis:
        _, _, log = run_case(server, folder, "external", redis.url)
    done = [int(l[0]) for l in lines(log)]
    assert set(done) == set(range(COUNT))
    twice = len(done) - COUNT
    # A kill between effect and record may repeat what ran at that moment, nothing else.
    assert twice <= KILLS * 6, "%d repeated" % twice
    print("    external: %d effects of %d repeated by %d kills" % (twice, COUNT, KILLS))
    fences = {}
    for value, _, fence, _ in lines(log):
        fences.setdefault(value, []).append(int(fence))
    for value, seen in fences.items():
        assert all(a < b for a, b in zip(seen, seen[1:])), "fences of %s do not grow: %s" % (value, seen)


def case_order(server, folder):
    _, _, log = run_case(server, folder, "order", "-")
    first = {}
    for value, _, _, _ in lines(log):
        first.setdefault(int(value), len(first))
    assert set(first) == set(range(COUNT)), "lost: %s" % sorted(set(range(COUNT)) - set(first))
    for key in range(KEYS):
        order = [first[v] for v in range(key, COUNT, KEYS)]
        assert order == sorted(order), "key k%d out of order" % key


def case_poison(server, folder):
    good = set(i for i in range(COUNT) if i % 10 != 3)  # those that failed come round by retry.<group>
    topic, group, log = run_case(server, folder, "poison", "-", lambda log: {int(l[0]) for l in lines(log)} == good)
    want = {"m-%d" % i for i in range(COUNT) if i % 10 == 3}
    letters = lambda: [json.loads(l) for l in server.cli("dlq", "list", "--group", group, "--json").splitlines()]
    until(lambda: {l["message_id"] for l in letters()} == want, "dead letters")
    for l in letters():
        h = dict((p[0], p[1]) for p in l["headers"])
        assert h["hf-dlq-reason"] == "rejected" and h["__dlq.errors.topic"] == topic and h["__dlq.errors.message"] == "poison"
        assert h["__dlq.errors.group"] == group and h["hf-origin"] == topic
    assert {l[3] for l in lines(log)} == {topic}, "a handler saw a retry topic"
    one = sorted(want)[0]
    server.cli("dlq", "drop", one, "--group", group)
    assert {l["message_id"] for l in letters()} == want - {one}
    if not GIVEN:  # once by name, though it was sent twice and workers were killed between move and commit
        assert len(letters()) == len(want) - 1, "dead letters doubled"


def case_transact(server, folder):
    """One producer in seven dies before its local commit, one in four between that and its decision."""
    count, topic = 28, "t-transact"
    p = start([PROBE, "transact", server.kafka, server.http, "shop", topic, folder + "/local.db", str(count)], cwd=folder,
              stdout=subprocess.PIPE, text=True)
    want = sorted("tx-%d" % i for i in range(count) if i % 7 != 6)
    seen = lambda value: sorted(json.loads(l)["key"] for l in server.cli("tail", topic, "--from", "earliest", "--exit",
                                "--json", check=False).splitlines() if json.loads(l)["value"].startswith(value))
    until(lambda: seen("tx-") == want and seen("late") == want, "what is committed")
    until(lambda: server.cli("txn", "list", "--group", "shop", "--json") == "", "all checks")
    open(folder + "/stop", "w").close()
    checked = p.stdout.read().splitlines()
    assert p.wait(30) == 0
    assert len([c for c in checked if c.endswith(" 2")]) == 4, checked  # rolled back by void rows
    assert len([c for c in checked if c.endswith(" 1")]) == 6, checked  # committed by their rows
    with sqlite3.connect(folder + "/local.db") as c:
        assert c.execute("SELECT count(*) FROM holdfast_local WHERE real = 0").fetchone() == (4,)


def catches(pid, number):
    with open("/proc/%d/status" % pid) as f:
        return int(next(l for l in f if l.startswith("SigCgt:")).split()[1], 16) >> (number - 1) & 1


def case_early(server, folder):
    """A stop while `holdfast work` still waits for its server is a clean stop."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        p = start([HOLDFAST, "work", "--server", "127.0.0.1:%d" % silent.getsockname()[1], "--topic", "t", "--group", "g",
                   "--", "cat"], stderr=subprocess.PIPE, text=True)
        until(lambda: catches(p.pid, signal.SIGTERM), "signals taken", 30)
        p.send_signal(signal.SIGTERM)
        assert p.wait(30) == 0, p.stderr.read()


def main():
    folder = tempfile.mkdtemp(prefix="hf-worker-")
    names = os.environ.get("CASES", "early database expiry postgres state external order poison transact").split()
    ok, server = False, None
    try:
        server = Server(folder)
        for name in names:
            began = time.time()
            globals()["case_" + name](server, folder)
            print("ok  %s (%.1f s)" % (name, time.time() - began), flush=True)
        ok = True
    finally:
        for p in reversed(children):
            if p.poll() is None:
                p.send_signal(signal.SIGTERM)
        for p in reversed(children):
            try:
                p.wait(15)
            except subprocess.TimeoutExpired:
                p.kill()
                p.wait()
        status = server.stop() if server else 0
        if ok and not status:
            shutil.rmtree(folder)
        else:
            print("SEED=%d; server's status %s; logs in %s" % (SEED, status, folder))
    return status


sys.exit(main())

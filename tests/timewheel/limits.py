#!/usr/bin/python3
"""What a schedule does when it is full, when a destination cannot take a message, and what it says of itself:
limits.py --binary build/holdfast

Every line of /metrics is checked against the rules of Prometheus' text format."""
import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from holdfast import Holdfast  # noqa: E402
from until import until  # noqa: E402

LIMIT = 40
server = None


def check(what, ok):
    if not ok:
        raise AssertionError(what)


def command(*words, status=0, stdin=None):
    run = subprocess.run([server.binary, *words, "--server", server.kafka, "--api", server.http], text=True, input=stdin,
                         capture_output=True, timeout=120)
    check(f"{words}: {run.returncode} {run.stdout} {run.stderr}", run.returncode == status)
    return run.stdout + run.stderr


def kcat(topic, lines, *headers, timeout_ms=60000):
    """A producer that sends one line a batch; Popen."""
    flags = [x for h in headers for x in ("-H", h)]
    p = subprocess.Popen(["kcat", "-P", "-K:", "-b", server.kafka, "-t", topic, "-X", f"message.timeout.ms={timeout_ms}",
                          "-X", "batch.num.messages=1", "-X", "retry.backoff.ms=50", *flags], text=True,
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    p.stdin.write("\n".join(lines) + "\n")
    p.stdin.close()
    return p


def end_of(p):
    """Output and errors of a producer that has come to its end."""
    try:
        p.wait(120)
    except subprocess.TimeoutExpired:
        p.kill()
        raise
    with p.stdout, p.stderr:
        return p.stdout.read() + p.stderr.read()


def messages(topic):
    return [json.loads(x) for x in command("tail", topic, "--from", "earliest", "--exit", "--json").splitlines()]


def stats():
    return json.loads(command("schedule", "stats", "--json"))


# ---- Prometheus' text format ----

SAMPLE = re.compile(r'([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{((?:[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\[\\"n])*",?)*)\})? (\S+)$')
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\[\\"n])*)"')


def family_of(name, kinds):
    base = re.sub(r"_(bucket|sum|count)$", "", name)
    return base if kinds.get(base) == "histogram" else name


def parse(text):
    """{(name, labels): value}; raises at what a scraper would refuse."""
    kinds, seen, closed, current = {}, {}, set(), None
    check("the text ends with a line feed", text.endswith("\n"))
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            check(f"a type twice: {line}", name not in kinds)
            check(f"an unknown type: {line}", kind in ("counter", "gauge", "histogram"))
            check(f"a counter's name ends in _total: {line}", (kind == "counter") == name.endswith("_total"))
            kinds[name], current = kind, name
            continue
        match = SAMPLE.match(line)
        check(f"no sample: {line!r}", match)
        name, labels, value = match.group(1), tuple(sorted(LABEL.findall(match.group(2) or ""))), float(match.group(3))
        family = family_of(name, kinds)
        check(f"without a type: {line}", family in kinds)
        check(f"not with its family: {line}", family == current and family not in closed)
        check(f"twice: {line}", (name, labels) not in seen)
        check(f"a counter or bucket below zero: {line}", value >= 0 or kinds[family] == "gauge")
        seen[name, labels] = value
    for family in (name for name, kind in kinds.items() if kind == "histogram"):
        buckets = [(float(dict(l)["le"].replace("+Inf", "inf")), v) for (n, l), v in seen.items() if n == family + "_bucket"]
        check(f"{family}: buckets ascend to +Inf", buckets == sorted(buckets) and buckets[-1][0] == float("inf"))
        check(f"{family}: buckets add up", [v for _, v in buckets] == sorted(v for _, v in buckets))
        check(f"{family}: count", seen[family + "_count", ()] == buckets[-1][1])
    return seen


def metrics():
    return {name: value for (name, labels), value in parse(server.get("/metrics")).items() if not labels}


# ---- what is shown ----

def is_refused(lines):
    """A producer that has all the time of the world is told to come again; then it is sent away."""
    refused = metrics()["holdfast_schedule_refused_total"]
    p = kcat("holdfast.delay", lines, "hf-topic=full", "hf-delay=1h", timeout_ms=600000)
    until(lambda: metrics()["holdfast_schedule_refused_total"] > refused, "it is refused")
    p.kill()
    end_of(p)


def a_full_destination_tells_its_producers_to_come_again():
    command("topic", "create", "full", "other", "plain")
    end_of(kcat("holdfast.delay", [f"k:{i}" for i in range(LIMIT - 1)], "hf-topic=full", "hf-delay=1h"))
    command("send", "full", "named", "--delay", "1h", "--id", "one")
    until(lambda: stats()["topics"]["full"]["pending"] == LIMIT, "they pend")
    is_refused([f"k:more{i}" for i in range(20)])
    check("as many as may", stats()["topics"]["full"]["pending"] == LIMIT)
    check("the log says why", f"schedule.topic.pending.max is {LIMIT} and would be passed for full" in server.log())
    # Nothing else suffers.
    command("send", "other", "v", "--delay", "1ms")
    command("send", "plain", "v")
    until(lambda: len(messages("other")) == 1 and len(messages("plain")) == 1, "others are served")
    # A producer that waits gets the room that a cancel makes.
    refused = metrics()["holdfast_schedule_refused_total"]
    waiting = kcat("holdfast.delay", ["k:patient"], "hf-topic=full", "hf-delay=1h", timeout_ms=600000)
    until(lambda: metrics()["holdfast_schedule_refused_total"] > refused + 2, "it tries again")
    check("a cancel needs no room", command("schedule", "cancel", "full", "one").strip() == "cancelled")
    check(f"it got through: {end_of(waiting)}", waiting.returncode == 0)
    server.stop(signal.SIGKILL)
    server.start()
    until(lambda: stats()["caught_up"], "all is read")
    check("counts survive", stats()["topics"]["full"]["pending"] == LIMIT and "other" not in stats()["topics"])
    is_refused(["k:late"])
    check("still as many", stats()["topics"]["full"]["pending"] == LIMIT)


def what_cannot_be_delivered_is_rejected_and_replayed():
    command("topic", "create", "gone")
    command("topic", "create", "small", "--set", "max.message.bytes=2048")
    before = stats()["rejected"]
    command("send", "gone", "first", "--key", "k", "--delay", "2h", "--id", "a", "--header", "own=kept")
    command("send", "small", "x" * 4000, "--delay", "2h", "--id", "b")
    until(lambda: {"gone", "small"} <= set(stats()["topics"]), "both pend")
    created = json.loads(command("schedule", "show", "gone", "a"))["accepted_ms"]
    command("topic", "delete", "gone")
    for topic, name in (("gone", "a"), ("small", "b")):
        check("moved", command("schedule", "move", topic, name, "--delay", "1ms").strip() == "moved")
    until(lambda: stats()["rejected"] == before + 2, "both are rejected")
    check("counted", metrics()["holdfast_schedule_rejected_total"] == before + 2)
    rows = {dict(r["headers"])["hf-origin"]: r for r in
            map(json.loads, command("rejected", "list", "--json").splitlines())}
    check(f"reasons: {rows}", dict(rows["gone"]["headers"])["hf-reason"] == "no such topic, and it may not be created" and
          dict(rows["small"]["headers"])["hf-reason"] == "too large for its topic")
    check("as it was sent", rows["gone"]["value"] == "first" and rows["gone"]["key"] == "k")
    check("a line each", "topic=gone" in command("rejected", "list") and "too large" in command("rejected", "list"))
    place = f"{rows['gone']['partition']}/{rows['gone']['offset']}"
    text = command("rejected", "replay", place, status=1)
    check(f"still gone: {text}", f'{place}: "gone" cannot take it yet' in text and "may not be created" in server.log())
    command("topic", "create", "gone")
    check("replayed", command("rejected", "replay", place).strip() == "replay 1")
    until(lambda: len(messages("gone")) == 1, "it arrives")
    arrived, = messages("gone")
    check(f"with its identity: {arrived}", arrived["message_id"] == rows["gone"]["message_id"] and arrived["value"] == "first" and
          dict(arrived["headers"])["own"] == "kept" and "hf-reason" not in dict(arrived["headers"]) and
          int(dict(arrived["headers"])["hf-created-at"]) > created)  # a replay is a new schedule
    check("once", "no such message" in command("rejected", "replay", place, status=1))
    check("the other stays", "topic=small" in command("rejected", "list") and "topic=gone" not in command("rejected", "list"))
    check("dropped", command("rejected", "drop", "--all").strip() == "drop 1" and command("rejected", "list") == "")


def replay(place):
    """Status and body of POST /v1/rejected/PLACE."""
    try:
        with urllib.request.urlopen(urllib.request.Request(f"http://{server.http}/v1/rejected/{place}", method="POST"),
                                    timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as e:
        with e:
            return e.code, json.load(e)


def what_was_rejected_is_replayed_over_http():
    command("topic", "create", "lost", "--partitions", "3")
    for i in range(3):
        end_of(kcat("holdfast.delay", [f"k:value {i}"], "hf-topic=lost", "hf-delay=2h", f"hf-id=m{i}", f"hf-partition={i}"))
    command("topic", "delete", "lost")
    for i in range(3):
        command("schedule", "move", "lost", f"m{i}", "--delay", "1ms")
    rejected = lambda: [r for r in map(json.loads, command("rejected", "list", "--json").splitlines())
                        if dict(r["headers"])["hf-origin"] == "lost"]
    rows = until(lambda: len(rejected()) == 3 and rejected(), "all are rejected")
    first, second, third = (f"{r['partition']}/{r['offset']}" for r in rows)
    status, answer = replay(second)
    check(f"still gone: {answer}", status == 409 and "may not be created" in answer["error"])
    command("topic", "create", "lost", "--partitions", "2")
    check("replayed", replay(second) == (200, {"outcome": "replayed"}))
    arrived, = until(lambda: messages("lost"), "it arrives")
    check(f"as it was sent: {arrived}", arrived["value"] == "value 1" and arrived["key"] == "k" and arrived["partition"] == 1 and
          arrived["message_id"] == rows[1]["message_id"] and "hf-reason" not in dict(arrived["headers"]))
    check("once", replay(second) == (409, {"outcome": "already settled"}))
    until(lambda: [r["offset"] for r in rejected()] == [rows[0]["offset"], rows[2]["offset"]], "it is listed no more")
    check("dropped", command("rejected", "drop", first).strip() == "drop 1")
    check("what was dropped does not go", replay(first) == (409, {"outcome": "already settled"}))
    status, answer = replay(third)
    check(f"its partition is gone: {answer}", status == 409 and "no such partition" in answer["error"])
    check("unknown", replay("0/999999") == replay("7/0") == (404, {"outcome": "unknown"}))
    check("no place", replay("0")[0] == replay("0/x")[0] == replay("-1/0")[0] == replay("99999999999/0")[0] == 400)
    server.stop(signal.SIGKILL)
    server.start()
    check("once, also after a crash", replay(second) == (409, {"outcome": "already settled"}) and len(messages("lost")) == 1)
    check("the rest", command("rejected", "drop", "--all").strip() == "drop 1")


def one_that_cannot_go_holds_up_no_other():
    command("topic", "create", "narrow", "--partitions", "3")
    for i in (2, 0, 1):
        command("send", "narrow", f"value {i}", "--partition", str(i), "--delay", "2h", "--id", f"n{i}")
    command("topic", "delete", "narrow")
    for i in (2, 0, 1):
        command("schedule", "move", "narrow", f"n{i}", "--delay", "1ms")
        until(lambda: command("rejected", "list").count("topic=narrow") == (2, 0, 1).index(i) + 1, "it is rejected")
    places = [row.split("\t")[0] for row in command("rejected", "list").splitlines()]
    command("topic", "create", "narrow", "--partitions", "2")
    text = command("rejected", "replay", "--all", status=1)
    check(f"the first stays: {text}", "replay 2" in text and f'{places[0]}: "narrow" cannot take it' in text and
          "0 not found, 1 could not" in text)
    until(lambda: sorted(m["value"] for m in messages("narrow")) == ["value 0", "value 1"], "the others arrive")
    check("it is listed", [row.split("\t")[0] for row in command("rejected", "list").splitlines()] == places[:1])
    check("all or some", "--all?" in command("rejected", "drop", "--all", places[0], status=2))
    text = command("rejected", "drop", places[0], "0/999999", status=1)
    check(f"the missing one is named: {text}", "drop 1" in text and "0/999999: no such message" in text)
    check("nothing is left", command("rejected", "list") == "")


def a_limit_that_was_raised_holds_for_what_is_delayed_and_rejected():
    large = "x" * (3 << 20)
    command("send", "small", "--delay", "2h", "--id", "large", stdin=large + "\n", status=1)
    server.stop()
    server.flags.append("--max.message.bytes=6MiB")
    server.start()
    command("send", "small", "--delay", "2h", "--id", "large", stdin=large + "\n")
    check("moved", command("schedule", "move", "small", "large", "--delay", "1ms").strip() == "moved")
    until(lambda: "topic=small" in command("rejected", "list"), "it is rejected, whole")
    check("dropped", command("rejected", "drop", "--all").strip() == "drop 1")


def a_sender_is_told_what_became_of_the_name():
    command("topic", "create", "named", "--partitions", "3")

    def send(*words):
        return command("send", "named", "v", "--delay", "2h", "--id", "n", *words).split()[1:]
    check("scheduled", send() == ["scheduled"])
    check("kept", send("--on.conflict", "keep") == ["kept"])
    check("replaced", send("--partition", "2") == ["replaced"])
    check("json", json.loads(command("send", "named", "v", "--delay", "2h", "--id", "n", "--json"))["outcome"] == "replaced")
    check("no name, no outcome", len(command("send", "named", "v", "--partition", "1").split()) == 1)
    check("there it is", [m["partition"] for m in messages("named")] == [1])
    command("schedule", "cancel", "named", "n")
    check("finished", send("--on.conflict", "once") == ["finished"])


def on_disk():
    """Bytes of the data folder's files, as far as they are allocated."""
    total = 0
    for folder, _, names in os.walk(server.data):
        for name in names:
            try:
                total += os.stat(os.path.join(folder, name)).st_blocks * 512
            except FileNotFoundError:
                pass  # it was deleted meanwhile
    return total


def cancelled_messages_free_their_space(count=6000):
    server.stop()
    server.flags = ["--schedule.memory.bytes=1MiB", "--segment.bytes=1MiB"]
    server.start()
    empty = on_disk()
    lines = "\n".join(json.dumps({"key": f"k{i}", "value": f"{i:08}" * 250, "id": f"order-{i:06}"}) for i in range(count))
    command("send", "space", "--jsonl", "--delay", "300d", stdin=lines)
    until(lambda: stats()["topics"].get("space", {}).get("pending") == count, "they pend")
    until(lambda: stats()["run_bytes"] > count * 1700 and on_disk() - empty < 2 * count * 2000,
          "they are in runs, and the log has let them go")
    full = on_disk()
    cancelled = json.loads(command("schedule", "cancel", "--topic", "space", "--prefix", "order-", "--json"))
    check(f"cancelled: {cancelled}", cancelled["cancelled"] == count)
    until(lambda: stats()["run_bytes"] < count * 1000 and on_disk() - empty < (full - empty) / 2, "space is freed")
    check("nothing pends", "space" not in stats()["topics"])
    print(f"{count} messages of 2 kB, due in 300 days: {(full - empty) >> 10} KiB on disk; cancelled: "
          f"{(on_disk() - empty) >> 10} KiB", flush=True)


def numbers_are_for_everyone_to_read():
    end_of(kcat("holdfast.delay", [f"k:{i}" for i in range(30)], "hf-topic=other", "hf-delay=1ms"))
    until(lambda: len(messages("other")) == 31, "fired")
    end_of(kcat("holdfast.delay", [f"k:{i}" for i in range(7)], "hf-topic=other", "hf-delay=50s"))
    until(lambda: stats()["topics"].get("other", {}).get("pending") == 7, "they pend")
    now, told = metrics(), stats()
    check("pending", now["holdfast_schedule_pending"] == told["pending"] == sum(t["pending"] for t in told["topics"].values()))
    check("due soon", now["holdfast_schedule_due_next_minute"] == told["due_next_minute"] == 7)
    check("late", now["holdfast_schedule_late"] == told["late"] == 0)
    check("lateness", now["holdfast_schedule_lateness_ms_count"] == sum(told["lateness"].values()) >= 30)
    check("limits", now["holdfast_schedule_pending_limit"] == told["limits"]["pending"] and told["limits"]["topic_pending"] == LIMIT)
    for name in ("fired_per_second", "id_bytes", "id_bytes_limit", "id_index_bytes", "id_horizon_ms", "clock_leapt"):
        check(name, f"holdfast_schedule_{name}" in now)
    check("of a topic", parse(server.get("/metrics"))["holdfast_schedule_topic_pending", (("topic", "other"),)] == 7)


def main():
    global server
    options = argparse.ArgumentParser()
    options.add_argument("--binary", required=True)
    o = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="holdfast-limits-") as folder:
        server = Holdfast(o.binary, folder, "--auto.create.topics.enable=false", f"--schedule.topic.pending.max={LIMIT}")
        server.start()
        try:
            for test in (a_full_destination_tells_its_producers_to_come_again, what_cannot_be_delivered_is_rejected_and_replayed,
                         what_was_rejected_is_replayed_over_http, one_that_cannot_go_holds_up_no_other, a_sender_is_told_what_became_of_the_name,
                         numbers_are_for_everyone_to_read, cancelled_messages_free_their_space,
                         a_limit_that_was_raised_holds_for_what_is_delayed_and_rejected):
                test()
                print(f"ok {test.__name__}", flush=True)
            check("a clean stop", server.stop() == 0)
        finally:
            if server.process:
                server.stop(signal.SIGKILL)


main()

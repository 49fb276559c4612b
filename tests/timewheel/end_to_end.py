#!/usr/bin/python3
"""Delayed messages through a real server: end_to_end.py --binary build/holdfast [--messages 1000]

kcat sends and reads; the command lists, shows, moves and cancels; the server is killed while messages are held."""
import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from holdfast import Holdfast  # noqa: E402
from until import until  # noqa: E402

server = None
binary = None


def check(what, ok):
    if not ok:
        raise AssertionError(what)


def produce(lines, *headers, topic="holdfast.delay"):
    flags = [x for h in headers for x in ("-H", h)]
    subprocess.run(["kcat", "-P", "-K:", "-b", server.kafka, "-t", topic, *flags], input="\n".join(lines) + "\n",
                   text=True, check=True, timeout=60)


def consume(topic, count, timeout=60):
    """(timestamp, partition, key, value, headers) of the first `count` messages."""
    def read():
        run = subprocess.run(["kcat", "-C", "-q", "-b", server.kafka, "-t", topic, "-c", str(count), "-o", "beginning",
                              "-f", "%T|%p|%k|%s|%h\n"], text=True, capture_output=True, timeout=timeout)
        return run.returncode == 0 and run.stdout

    rows, out = [], until(read, f"topic {topic}, which may be being created", timeout)
    for line in out.splitlines():
        at, partition, key, value, headers = line.split("|", 4)
        rows.append((int(at), int(partition), key, value, dict(h.split("=", 1) for h in headers.split(",") if h)))
    return rows


def holds(topic):
    """How many messages the topic has, all partitions."""
    out = subprocess.run(["kcat", "-C", "-q", "-e", "-b", server.kafka, "-t", topic, "-o", "beginning", "-f", "x\n"],
                         text=True, capture_output=True, timeout=60).stdout
    return out.count("x")


def schedule(*words, status=0):
    run = subprocess.run([binary, "schedule", *words, "--api", server.http], text=True, capture_output=True, timeout=60)
    check(f"schedule {words}: {run.returncode} {run.stdout} {run.stderr}", run.returncode == status)
    return run.stdout + run.stderr


def arrives_at_its_time_and_never_before(count):
    produce([f"k{i}:v{i}" for i in range(count)], "hf-topic=t", "hf-delay=1500ms", "own=kept")
    rows = consume("t", count)
    late = []
    for i, (at, _, key, value, headers) in enumerate(rows):
        check(f"order: {key}", key == f"k{i}" and value == f"v{i}")
        check(f"headers: {headers}", headers["own"] == "kept" and "hf-topic" not in headers and "hf-delay" not in headers)
        check("identity", headers["hf-message-id"] == f"holdfast.delay/0/{i}@{headers['hf-created-at']}")
        check("due", int(headers["hf-due"]) == int(headers["hf-created-at"]) + 1500)
        late.append(at - int(headers["hf-due"]))
    late.sort()
    print(f"lateness of {count} messages, ms: min {late[0]}, p50 {late[count // 2]}, p99 {late[count * 99 // 100]}, "
          f"max {late[-1]}", flush=True)
    check(f"{count} arrive, {len(rows)} did", len(rows) == count)
    check("one came early", late[0] >= 0)


def is_listed_shown_moved_and_cancelled():
    produce(["k:first"], "hf-topic=named", "hf-delay=1h", "hf-id=order/1")
    produce(["k:second"], "hf-topic=named", "hf-delay=2h", "hf-id=order/2")
    until(lambda: len(schedule("list", "--topic", "named", "--json").splitlines()) == 2, "both are listed")
    rows = [json.loads(x) for x in schedule("list", "--topic", "named", "--prefix", "order/", "--json").splitlines()]
    check(f"oldest first: {rows}", [r["id"] for r in rows] == ["order/1", "order/2"])
    shown = json.loads(schedule("show", "named", "order/1"))
    check(f"shown: {shown}", shown["value"] == "first" and shown["key"] == "k")
    check("cancelled", schedule("cancel", "named", "order/2").strip() == "cancelled")
    check("cancelled again", schedule("cancel", "named", "order/2").strip() == "cancelled")
    check("unknown", "unknown" in schedule("cancel", "named", "order/3", status=1))
    check("moved", schedule("move", "named", "order/1", "--delay", "1ms").strip() == "moved")
    (_, _, _, value, headers), = consume("named", 1)
    check("the moved one keeps its identity", value == "first" and headers["hf-created-at"] == str(shown["accepted_ms"]))
    check("too late", "already delivered" in schedule("cancel", "named", "order/1", status=1))
    check("too late to move", "already delivered" in schedule("move", "named", "order/1", "--delay", "1h", status=1))
    check("nothing is left", schedule("list", "--topic", "named") == "")


def keys_keep_their_partitions():
    for name in ("direct", "delayed"):
        subprocess.run([binary, "topic", "create", name, "--partitions", "7", "--server", server.kafka], check=True,
                       timeout=60, stdout=subprocess.DEVNULL)
    keys = [f"key-{i}:x" for i in range(300)]
    subprocess.run(["kcat", "-P", "-K:", "-b", server.kafka, "-t", "direct", "-X", "topic.partitioner=murmur2"],
                   input="\n".join(keys) + "\n", text=True, check=True, timeout=60)
    produce(keys, "hf-topic=delayed", "hf-delay=1ms")
    until(lambda: holds("delayed") == 300, "all are delivered")
    direct = {key: partition for _, partition, key, _, _ in consume("direct", 300)}
    delayed = {key: partition for _, partition, key, _, _ in consume("delayed", 300)}
    check("equal partitions", direct == delayed and len(set(direct.values())) == 7)


def a_kill_loses_and_doubles_nothing(count):
    produce([f"k{i}:v{i}" for i in range(count)], "hf-topic=killed", "hf-delay=1200ms")
    server.stop(signal.SIGKILL)
    server.start()

    def all_in_spite_of_kills():
        held = holds("killed")
        if count // 3 < held < count:
            server.stop(signal.SIGKILL)
            server.start()
        return held >= count

    until(all_in_spite_of_kills, "all are delivered")
    rows = consume("killed", holds("killed"))
    check("each once, in order", [r[2] for r in rows] == [f"k{i}" for i in range(count)])


def wrong_records_are_refused_and_nothing_else():
    run = subprocess.run(["kcat", "-P", "-K:", "-b", server.kafka, "-t", "holdfast.delay", "-H", "hf-topic=t", "-H",
                          "hf-due=1", "-H", "hf-delay=1"], input="k:v\n", text=True, capture_output=True, timeout=60)
    check(f"refused: {run.stderr}", "INVALID_RECORD" in run.stderr or "failed" in run.stderr)
    produce(["k:v"], "hf-topic=after", "hf-delay=1ms")
    check("others go on", consume("after", 1)[0][3] == "v")


def a_name_that_will_never_be_a_topic_is_refused_at_once():
    for name in ("holdfast.delays", "holdfast.Delay"):
        run = subprocess.run(["kcat", "-P", "-b", server.kafka, "-t", name, "-X", "message.timeout.ms=50000"], input="v\n", text=True,
                             capture_output=True, timeout=120)
        check(f"refused: {run.stderr}", run.returncode != 0 and "Invalid topic" in run.stderr)


def ask(method, path, body=None):
    request = urllib.request.Request(f"http://{server.http}{path}", method=method, data=body and json.dumps(body).encode())
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as e:
        with e:
            return e.code, json.load(e)


def http_does_nothing_that_was_not_asked_for():
    rejected = json.loads(schedule("stats", "--json"))["rejected"]
    produce(["k:v"], "hf-topic=asked", "hf-delay=2h", "hf-id=a")
    until(lambda: ask("GET", "/v1/schedule/asked/a")[0] == 200, "it pends")
    many = "/v1/schedule?topic=asked"
    for method, path, body, why in (("DELETE", many + "&prefx=b", None, "query parameters: topic prefix from"),
                                    ("DELETE", many + "&topic=b", None, "each once"), ("DELETE", many + "&prefix=a%00b", None, "query"),
                                    ("DELETE", many + "&to=0", None, "to above 0"), ("DELETE", many + "&from=soon", None, "RFC 3339"),
                                    ("DELETE", "/v1/schedule?prefix=a", None, "topic is needed"),
                                    ("DELETE", many + "&prefix=", None, "may not be empty"),
                                    ("DELETE", "/v1/schedule/asked/%ff", None, "hf-id: not UTF-8"),
                                    ("POST", "/v1/schedule/asked/%ff", {"delay": "1h"}, "hf-id: not UTF-8"),
                                    ("DELETE", "/v1/schedule/not%20legal/a", None, "hf-topic: not a legal topic name"),
                                    ("POST", "/v1/schedule/asked/a", {"delay": "level99"}, "delay.levels has 18"),
                                    ("POST", many, {"delay": "level99"}, "delay.levels has 18"),
                                    ("POST", many, {"by": "1h", "delay": "1h"}, "the body is"),
                                    ("DELETE", "/v1/schedule/asked/a?force=1", None, "no query parameters"),
                                    ("GET", "/v1/schedule-outcomes?partition=0", None, "are needed")):
        status, answer = ask(method, path, body)
        check(f"{method} {path} {body}: {status} {answer}", status == 400 and why in answer["error"])
    item = ask("GET", "/v1/schedule/asked/a")[1]
    check(f"it is as it was: {item}", item["due_ms"] - item["accepted_ms"] == 7200000)
    check("nothing was rejected", json.loads(schedule("stats", "--json"))["rejected"] == rejected)
    check("not this one", ask("DELETE", "/v1/schedule/asked/a%00b") == (404, {"outcome": "unknown"}))
    check("before", ask("DELETE", many + "&to=2020-01-01T00:00:00Z")[1]["cancelled"] == 0)
    for end in (253402300800000, 2 ** 63 - 1):
        check("no end", len(ask("GET", many + f"&to={end}")[1]["messages"]) == 1)
    check("by milliseconds", ask("POST", many, {"by": 3600000})[1]["moved"] == 1)
    check("from a time", ask("DELETE", many + "&from=2020-01-01T00:00:00%2B01:00")[1]["cancelled"] == 1)


def command(*words, status=0):
    run = subprocess.run([binary, *words, "--server", server.kafka, "--api", server.http], text=True, capture_output=True,
                         timeout=60)
    check(f"{words}: {run.returncode} {run.stdout} {run.stderr}", run.returncode == status)
    return run.stdout + run.stderr


def a_recurring_message_is_shown_moved_and_cancelled():
    text = command("send", "cron", "v", "--cron", "0 25 * * *", "--id", "job", status=2)
    check(f"field, position and range: {text}", "hour, character 3" in text and "0-23" in text)
    text = command("send", "cron", "v", "--cron", "@daily", "--tz", "Mars/Olympus", "--id", "job", status=2)
    check(f"zone: {text}", "Mars/Olympus" in text)
    run = subprocess.run(["kcat", "-P", "-K:", "-b", server.kafka, "-t", "holdfast.delay", "-H", "hf-topic=cron", "-H",
                          "hf-cron=* * * 13 *", "-H", "hf-id=job"], input="k:v\n", text=True, capture_output=True, timeout=60)
    check(f"refused at the door: {run.stderr}", "INVALID_RECORD" in run.stderr or "failed" in run.stderr)
    check("told in the log", "month, character 7" in server.log())
    command("send", "cron", "v", "--key", "k", "--cron", "0 9 * * MON-FRI", "--tz", "Europe/Berlin", "--id", "job")
    shown = {}

    def is_shown():
        run = subprocess.run([binary, "schedule", "show", "cron", "job", "--api", server.http], text=True,
                             capture_output=True, timeout=30)
        shown.update(json.loads(run.stdout) if run.returncode == 0 else {})
        return run.returncode == 0

    until(is_shown, "it pends")
    check(f"shown: {shown}", shown["cron"] == "0 9 * * MON-FRI" and shown["tz"] == "Europe/Berlin" and len(shown["next"]) == 5)
    check("the pending one comes first", shown["next"][0] == shown["due"] and shown["next"] == sorted(shown["next"]))
    check("moved", schedule("move", "cron", "job", "--delay", "1ms").strip() == "moved")
    (_, _, _, value, headers), = consume("cron", 1)
    check(f"an identity of its own: {headers}", value == "v" and headers["hf-message-id"].endswith("#" + headers["hf-due"]))
    until(is_shown, "the series goes on")
    check("at its own time", shown["next"][0] == shown["due"] and shown["cron"] == "0 9 * * MON-FRI")
    server.stop(signal.SIGKILL)
    server.start()
    until(is_shown, "it pends after a crash")
    check("cancelled", schedule("cancel", "cron", "job").strip() == "cancelled")
    schedule("show", "cron", "job", status=1)


def delay_levels_are_a_table_of_the_server():
    produce(["k:level"], "hf-topic=levels", "hf-delay=level1")
    (at, _, _, _, headers), = consume("levels", 1)
    check("level1 is 1 s", int(headers["hf-due"]) == int(headers["hf-created-at"]) + 1000 and at >= int(headers["hf-due"]))
    run = subprocess.run(["kcat", "-P", "-K:", "-b", server.kafka, "-t", "holdfast.delay", "-H", "hf-topic=levels", "-H",
                          "hf-delay=level19"], input="k:v\n", text=True, capture_output=True, timeout=60)
    check(f"refused: {run.stderr}", run.returncode != 0 or "failed" in run.stderr)
    server.stop()
    server.flags = ["--delay.levels=20ms 30ms"]
    server.start()
    command("send", "levels", "v", "--delay", "level2")
    until(lambda: holds("levels") == 2, "another table")
    rows = consume("levels", 2)
    check("level2 is 30 ms", int(rows[1][4]["hf-due"]) == int(rows[1][4]["hf-created-at"]) + 30)


def many_are_counted_moved_and_cancelled(count):
    lines = [f"k{i}:v{i}" for i in range(count)]
    by_id = "\n".join(json.dumps({"key": f"k{i}", "value": f"v{i}", "id": f"order-{i:05}"}) for i in range(count))
    run = subprocess.run([binary, "send", "many", "--jsonl", "--delay", "2h", "--server", server.kafka, "--api", server.http],
                         input=by_id, text=True, capture_output=True, timeout=60)
    check(f"sent: {run.stderr}", run.returncode == 0)
    produce(lines[:10], "hf-topic=many", "hf-delay=2h")
    produce(["k:other"], "hf-topic=others", "hf-delay=2h", "hf-id=order-1")

    def counted(*filters):
        return json.loads(schedule("count", "--json", *filters))

    until(lambda: counted("--topic", "many")["count"] == count + 10, "all pend")
    check("by prefix", counted("--topic", "many", "--prefix", "order-0000")["count"] == 10)
    due = counted("--topic", "many")["due"]
    check(f"due when: {due}", due["6h"] == count + 10 and sum(due.values()) == count + 10)
    stats = json.loads(schedule("stats"))
    check(f"stats: {stats}", stats["due"]["6h"] >= count + 11 and stats["pending"] >= count + 11 and stats["id_memory_bytes"] > 0)
    metrics = server.metrics()
    check("metrics", metrics["holdfast_schedule_pending"] == stats["pending"] and "holdfast_schedule_due_next_minute" in metrics)
    moved = json.loads(schedule("move", "--topic", "many", "--prefix", "order-", "--by", "24h", "--json"))
    check(f"moved once each: {moved}", moved["moved"] == count and moved["changed"] == 0)
    due = counted("--topic", "many")["due"]
    check(f"moved: {due}", due["7d"] == count and due["6h"] == 10)
    check("400 without a topic", "topic" in schedule("cancel", status=2))
    # One page, then a crash, then the rest from the cursor.
    page = subprocess.run(["curl", "-s", "-X", "DELETE", f"http://{server.http}/v1/schedule?topic=many&prefix=order-&limit=100"],
                          text=True, capture_output=True, timeout=60)
    first = json.loads(page.stdout)
    check(f"a page: {first}", first["cancelled"] == 100 and first["next"])
    server.stop(signal.SIGKILL)
    server.start()
    until(lambda: counted("--topic", "many")["count"] == count - 90, "the rest pends")
    rest = json.loads(schedule("cancel", "--topic", "many", "--json", "--after", first["next"]))
    check(f"the rest: {rest}", rest["cancelled"] == count - 100)
    rest = json.loads(schedule("cancel", "--topic", "many", "--json"))
    check(f"those without an id stay: {rest}", rest["cancelled"] == 0 and rest["without id"] == 10)
    check("others are left alone", counted("--topic", "others")["count"] == 1)


def large_ones_are_moved_whatever_is_large_in_them():
    lines = [{"value": "v" * 400000, "id": "value", "delay": "1h"}, {"key": "k" * 800000, "id": "key", "delay": "2h"},
             {"headers": [["h", "h" * 800000]], "id": "header", "delay": "3h"}]
    run = subprocess.run([binary, "send", "large", "--jsonl", "--server", server.kafka, "--api", server.http], text=True,
                         input="\n".join(map(json.dumps, lines)), capture_output=True, timeout=60)
    check(f"sent: {run.stderr}", run.stdout == "sent 3\n")
    check("moved", json.loads(schedule("move", "--topic", "large", "--by", "1h", "--json"))["moved"] == 3)
    check("cancelled", json.loads(schedule("cancel", "--topic", "large", "--json"))["cancelled"] == 3)


def main():
    global server, binary
    options = argparse.ArgumentParser()
    options.add_argument("--binary", required=True)
    options.add_argument("--messages", type=int, default=1000)
    o = options.parse_args()
    binary = os.path.abspath(o.binary)
    with tempfile.TemporaryDirectory(prefix="holdfast-delay-") as folder:
        server = Holdfast(binary, folder)
        server.start()
        try:
            for test, arguments in ((arrives_at_its_time_and_never_before, (o.messages,)),
                                    (is_listed_shown_moved_and_cancelled, ()), (keys_keep_their_partitions, ()),
                                    (a_kill_loses_and_doubles_nothing, (2000,)),
                                    (wrong_records_are_refused_and_nothing_else, ()),
                                    (a_name_that_will_never_be_a_topic_is_refused_at_once, ()),
                                    (http_does_nothing_that_was_not_asked_for, ()),
                                    (a_recurring_message_is_shown_moved_and_cancelled, ()),
                                    (delay_levels_are_a_table_of_the_server, ()),
                                    (many_are_counted_moved_and_cancelled, (3000,)),
                                    (large_ones_are_moved_whatever_is_large_in_them, ())):
                test(*arguments)
                print(f"ok {test.__name__}", flush=True)
            check("a clean stop", server.stop() == 0)
        finally:
            if server.process:
                server.stop(signal.SIGKILL)


main()

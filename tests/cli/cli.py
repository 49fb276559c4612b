#!/usr/bin/python3 -B
"""The client commands against a server: what they print, what a pipe of them carries, how they end.

    cli.py BINARY [TEST…]
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from holdfast import Holdfast  # noqa: E402
from until import until  # noqa: E402


class Cli:
    def __init__(self, binary, server):
        self.binary, self.at = binary, ["--server", server.kafka, "--api", server.http]

    def __call__(self, *args, stdin="", status=0):
        command, sep, program = args, (), ()
        if "--" in args:
            i = args.index("--")
            command, sep, program = args[:i], args[i:i + 1], args[i + 1:]
        p = subprocess.run([self.binary, *command, *self.at, *sep, *program], input=stdin, capture_output=True, text=True,
                           timeout=60)
        assert p.returncode == status, (args, p.returncode, p.stdout, p.stderr)
        return p.stdout if status == 0 else p.stderr

    def json(self, *args, **more):
        return [json.loads(line) for line in self(*args, "--json", **more).splitlines()]


def values(cli, topic, *flags):
    return sorted(m["value"] for m in cli.json("tail", topic, "--exit", *flags))


def receipts_name_the_place_of_each_message(cli):
    cli("topic", "create", "receipts", "--partitions", "3")
    one, two = cli.json("send", "receipts", "a", "b", "--key", "k")
    assert one["number"] == 1 and two["number"] == 2 and one["topic"] == "receipts", (one, two)
    assert two["partition"] == one["partition"] and two["offset"] == one["offset"] + 1, (one, two)
    place, = cli("send", "receipts", "c", "--key", "k").splitlines()
    assert place.startswith("receipts/%d/%d@" % (one["partition"], one["offset"] + 2)), place
    lines = cli.json("send", "receipts", "--key", "k", stdin="d\ne\nf\n")
    assert [(r["number"], r["offset"]) for r in lines] == [(n, one["offset"] + 2 + n) for n in (1, 2, 3)], lines
    assert cli("send", "receipts", "--key", "k", stdin="g\nh\n") == "sent 2\n"
    delayed, = cli.json("send", "receipts", "later", "--delay", "1h", "--id", "x")
    assert delayed["topic"] == "holdfast.delay", delayed
    cli("schedule", "cancel", "receipts", "x")
    assert values(cli, "receipts", "--from", "earliest") == list("abcdefgh")


def a_message_that_is_refused_fails_the_command(cli):
    err = cli("send", "receipts", "--header", "hf-topic=x", stdin="v\n", status=1)
    assert "hf-topic" in err, err
    err = cli("send", "receipts", "--json", "--partition.nonsense", "1", status=2)
    assert "unknown flag" in err, err
    err = cli("send", "receipts", "--json", stdin="x" * (2 << 20) + "\n", status=1)
    assert "line 1" in err, err


def tail_and_send_carry_a_topic_whole(cli):
    cli("topic", "create", "copy")
    cli("send", "origin", "first", "--key", "k", "--header", "h=1", "--message.id", "m-1")
    cli("send", "origin", "zweite ß\ttab", "--header", "h=2", "--header", "h=3")
    subprocess.run(["kcat", "-P", "-b", cli.at[1], "-t", "origin", "-K:"], input=b"\xff\xfe:\x00\xff\n\0\0\0\x05:\0\n",
                   check=True, timeout=60)
    exported = cli("tail", "origin", "--from", "earliest", "--exit", "--json")
    assert cli("send", "copy", "--jsonl", stdin=exported) == "sent 4\n"
    strip = lambda topic: [{k: v for k, v in m.items() if k not in ("topic", "offset", "timestamp", "partition")}
                           for m in cli.json("tail", topic, "--from", "earliest", "--exit")]
    assert strip("copy") == strip("origin"), (strip("copy"), strip("origin"))
    assert strip("copy")[0]["message_id"] == "m-1" and strip("copy")[1]["headers"] == [["h", "2"], ["h", "3"]]


def a_line_of_json_says_its_own_name_and_time(cli):
    lines = [{"value": "1", "id": "one", "delay": "1h"}, {"value": "2", "id": "two", "due": "2099-01-01T00:00:00Z"},
             {"value": "3", "id": "three", "cron": "@yearly"}, {"value": "4", "id": "four", "delay": None}]
    text = "\n".join(json.dumps(line) for line in lines)
    assert cli("send", "own", "--jsonl", "--delay", "3h", stdin=text) == "sent 4\n"
    rows = {r["id"]: r for r in cli.json("schedule", "list", "--topic", "own")}
    hours = lambda name: (rows[name]["due_ms"] - rows[name]["accepted_ms"]) / 3600000
    assert (hours("one"), hours("four")) == (1, 3) and rows["two"]["due"].startswith("2099") and "cron" in rows["three"], rows
    for wrong in ({"id": 5}, {"id": "a\0b"}, {"delay": "soon"}, {"due": "soon"}, {"delay": True}, {"delay": "1h", "due": 5},
                  {"headers": [["h", "v"]] * 300}, {"headers": [["h", 5]]}, {"headers": [["h", "v"]] * 240}, {"headers": {"h": "v"}},
                  {"headers": [["h\0", "v"]]}, {"headers": [["h"]]}, {"headers": [[5, "v"]]}, {"headers": ["h=v"]},
                  {"headers": [["h", None, "no base64"]]}, {"headers": [["h", "v", 7]]},
                  {"key_base64": 5}, {"key_base64": "eA==", "key": "x"}):
        err = cli("send", "own", "--jsonl", "--header", "of=flags", stdin=json.dumps({"value": "x", **wrong}), status=1)
        assert "line 1" in err and next(iter(wrong)) in err, (wrong, err)
    cli("schedule", "cancel", "--topic", "own")
    flags = ("--cron", "@daily", "--tz", "Europe/Berlin", "--id", "of the flags")
    cli("send", "own", "--jsonl", *flags, stdin='{"value": "1", "id": "once", "delay": "1h"}\n{"value": "2"}\n')
    rows = {r["id"]: r.get("tz") for r in cli.json("schedule", "list", "--topic", "own")}
    assert rows == {"once": None, "of the flags": "Europe/Berlin"}, rows
    cli("schedule", "cancel", "--topic", "own")


def digits_are_an_offset_and_a_date_is_a_time(cli):
    for n in range(3):
        cli("send", "places", str(n))
    middle = cli.json("tail", "places", "--from", "1", "--count", "1")[0]
    assert middle["value"] == "1" and middle["offset"] == 1, middle
    while time.time() * 1000 <= middle["timestamp"] + 1000:  # so that a second lies between
        time.sleep(0.05)
    cli("send", "places", "3")
    second = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(middle["timestamp"] / 1000 + 1))
    assert values(cli, "places", "--from", "2") == ["2", "3"]
    assert "3" in values(cli, "places", "--from", second) and "0" not in values(cli, "places", "--from", second)
    assert values(cli, "places", "--from", "latest") == []
    assert "neither" in cli("tail", "places", "--from", "yesterday", status=2)
    assert "does not exist" in cli("tail", "nowhere", status=1)


def topics_are_made_described_and_deleted(cli):
    cli("topic", "create", "one", "two", "--partitions", "2")
    cli("send", "two", "x")
    rows = cli.json("topic", "describe", "one", "two")
    assert [(r["topic"], r["partition"]) for r in rows] == [("one", 0), ("one", 1), ("two", 0), ("two", 1)], rows
    assert sum(r["end"] - r["start"] for r in rows) == 1, rows
    assert {"topic": "one", "partitions": 2} in cli.json("topic", "list")
    assert "one" in cli("topic", "create", "one", status=1)
    cli("topic", "create", "usual", "--partitions", "0")
    usual, = (t["partitions"] for t in cli.json("topic", "list") if t["topic"] == "usual")
    assert usual == 1, f"--partitions 0 is the server's num.partitions, not {usual}"
    assert "nothing to do" in cli("topic", "alter", "usual", "--partitions", "0", status=1)
    assert "--partitions" in cli("topic", "create", "none", "--partitions", "-1", status=2)
    cli("topic", "delete", "one", "two", "usual")
    assert not {"one", "two"} & {t["topic"] for t in cli.json("topic", "list")}
    cli("topic", "delete", "one", status=1)
    cli("topic", "delete", "holdfast.delay", status=1)
    cli("topic", "nonsense", status=2)


def a_list_ends_at_its_limit_and_zero_is_none(cli):
    cli("send", "listed", "--delay", "1h", stdin="a\nb\nc\n")
    until(lambda: len(cli.json("schedule", "list", "--topic", "listed")) == 3, "all pend")
    for limit, rows in (("2", 2), ("0", 3), ("5", 3)):
        assert len(cli.json("schedule", "list", "--topic", "listed", "--limit", limit)) == rows, limit
    assert "--limit" in cli("schedule", "list", "--limit", "-1", status=2)
    cli("schedule", "cancel", "--topic", "listed")


def ids_of_any_kind_are_shown_and_cancelled(cli):
    ids = [".", "..", "a/b?c=d&e#%41", " ", "line\nend", "\x1b[31mred", "日" * 333, "x" * 1000]
    for name in ids:
        cli("send", "any", "v", "--delay", "1h", "--id", name)
    subprocess.run(["kcat", "-P", "-b", cli.at[1], "-t", "holdfast.delay", "-K:", "-H", "hf-topic=any", "-H", "hf-delay=1h",
                    "-H", "hf-id=bytes"], input=b"\0\0\0\x05:\0\n", check=True, timeout=60)
    text = cli("schedule", "list", "--topic", "any")
    assert text.count("\n") == len(ids) + 1 and "\x1b" not in text and "\\x1b[31mred" in text, text
    assert cli("schedule", "show", "any", "bytes", "--json").count("\\u0000") == 4
    for name in ids:
        assert cli("schedule", "count", "--topic", "any", "--prefix", name).startswith("count 1\n") or name == ".", name
        assert cli("schedule", "move", "any", name, "--delay", "2h") == "moved\n", name
        assert cli("schedule", "cancel", "any", name) == "cancelled\n", name
    assert cli("schedule", "cancel", "--topic", "any").startswith("cancelled 1\n")
    assert "nothing of this name pends" in cli("schedule", "show", "any", "bytes", status=1)


def a_letter_is_a_line_whatever_is_in_it(cli):
    subprocess.run(["kcat", "-P", "-b", cli.at[1], "-t", "dlq.lines", "-H", "hf-message-id=a\nb\tc", "-H", "hf-dlq-reason=fatal", "-H",
                    "__dlq.errors.message=Traceback:\n  \x1b[2Jwrong"], input="v\n", text=True, check=True, timeout=60)
    row, = cli("dlq", "--group", "lines", "list").splitlines()
    assert row.split("\t")[2:] == ["fatal", "attempts=", "topic=", r"id=a\x0ab\x09c", r"Traceback:\x0a  \x1b[2Jwrong"], row


def a_flag_that_would_be_left_out_of_account_is_refused(cli):
    cli("send", "kept", "--delay", "1h", "--id", "i", stdin="v\n")
    for words in (("cancel", "--topic", "kept", "--limit", "1"), ("cancel", "kept", "i", "--prefix", "j"), ("cancel",),
                  ("cancel", "--prefix", "i"), ("cancel", "--topic", "kept", "--to", "0"), ("count", "--limit", "3"),
                  ("move", "--topic", "kept", "--by", "1h", "--limit", "1"), ("move", "kept", "i", "--delay", "1h", "--from", "5"),
                  ("move", "--topic", "kept", "--delay", "level99"), ("move", "kept", "i", "--delay", "level99"),
                  ("show", "kept", "i", "--by", "1h"), ("list", "--due", "5")):
        err = cli("schedule", *words, status=2)
        assert "--help" in err, (words, err)
    row, = cli.json("schedule", "list", "--topic", "kept")
    assert row["due_ms"] - row["accepted_ms"] == 3600000, row
    assert "pending" in cli("schedule", "stats") and "pending" not in cli("schedule", "stats", "--after", "1-1")
    assert "on_conflict" in cli("send", "kept", "v", "--delay", "1h", "--on.conflict", "keep", status=1)
    cli("schedule", "cancel", "--topic", "kept")


def a_group_reads_on_and_is_reset(cli):
    for n in range(4):
        cli("send", "read", str(n))
    first = cli.json("tail", "read", "--group", "readers", "--from", "earliest", "--count", "2")
    row, = cli.json("group", "describe", "readers")
    assert (row["topic"], row["offset"], row["end"]) == ("read", 2, 4), (row, first)
    assert any(g["group"] == "readers" for g in cli.json("group", "list"))
    for to, offset in (("3", 3), ("earliest", 0), ("latest", 4), ("2020-01-01T00:00:00Z", 0)):
        row, = cli.json("group", "reset", "readers", "--to", to)
        assert row["offset"] == offset, (to, row)
    cli("group", "reset", "nobody", "--to", "earliest", status=1)
    assert "nobody" in cli("group", "describe", "nobody", status=1)
    cli("group", "reset", "readers", status=2)


def a_wrong_word_is_told_with_what_it_may_be(cli):
    for words, may in ((("txn", "list", "--state", "lost"), "parked"), (("schedule", "move", "t", "i", "--delay", "soon"), "15m"),
                       (("schedule", "move", "--topic", "t", "--by", "soon"), "-15m"), (("send", "t", "x", "--due", "soon"), "T12:00"),
                       (("schedule", "list", "--from", "soon"), "T12:00"), (("send", "t", "x", "--on.conflict", "win"), "keep")):
        err = cli(*words, status=2)
        assert f'"{words[-1]}"' in err and may in err, (words, err)
    assert cli("send", "t", "--count", "1", status=2).count("--help") == 1


def http_is_asked_of_the_same_host(cli):
    for server, api in (("db1:9093", "db1:8092"), ("db1", "db1:8092"), ("[::1]:9092", "[::1]:8092"), ("a:1,b:2", "a:8092"),
                        ("PLAINTEXT://db1:9093,PLAINTEXT://b", "db1:8092"), ("a,PLAINTEXT://b", "a:8092")):
        out = subprocess.run([cli.binary, "schedule", "stats", "--server", server, "--print-config"], capture_output=True,
                             text=True, check=True, timeout=60).stdout
        assert f"api = {api}\n" in out, (server, out)
    assert f"api = {cli.at[3]}\n" in cli("schedule", "stats", "--print-config")


HANDLER = """#!/bin/sh
read -r value
echo "$HF_TOPIC $HF_KEY $HF_MESSAGE_ID $HF_ATTEMPT $HF_FENCE $HF_HEADER_MY_COLOUR $value" >> "$0.log"
case "$value" in
good) exit 0 ;;
late) [ "$HF_ATTEMPT" = 2 ]; exit $(( $? * 75 )) ;;
bad) exit 65 ;;
broken) exit 9 ;;
slow) echo $$ >> "$0.slow"; trap "" TERM; exec sleep 1000 ;;
family) echo $$ >> "$0.slow"; sleep 1000 & echo $! >> "$0.slow"; wait ;;
esac
"""


class Work:
    """A holdfast work and the lines that its program has written."""

    def __init__(self, cli, folder, topic, group, *flags):
        self.path = os.path.join(folder, group)
        with open(self.path, "w") as f:
            f.write(HANDLER)
        os.chmod(self.path, 0o755)
        self.process = subprocess.Popen([cli.binary, "work", *cli.at, "--topic", topic, "--group", group, *flags, "--",
                                         self.path], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def lines(self, suffix=".log"):
        try:
            with open(self.path + suffix) as f:
                return [tuple(line.split(" ")) for line in f.read().splitlines()]
        except FileNotFoundError:
            return []

    def end(self, how=signal.SIGTERM):
        self.process.send_signal(how)
        return self.process.wait(60)

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.process.kill()
        self.process.wait()


def gone(pid):
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def a_programs_exit_status_settles_its_message(cli):
    for value in ("good", "late", "bad", "broken", "slow", "family"):
        cli("send", "work", value, "--key", "k-" + value, "--message.id", "m-" + value, "--header", "my.colour=red")
    letters = lambda: {m["message_id"]: dict(m["headers"]) for m in cli.json("dlq", "list", "--group", "w")}
    with tempfile.TemporaryDirectory(prefix="holdfast-work-") as folder:
        with Work(cli, folder, "work", "w", "--attempts", "2", "--retry.first", "50ms", "--retry.max", "100ms", "--timeout",
                  "1s") as work:
            until(lambda: any(t["topic"] == "dlq.w" for t in cli.json("topic", "list")) and len(letters()) == 4, "letters")
            until(lambda: [(r["unsettled"], r["offset"]) for r in cli.json("group", "describe", "w")
                           if r["topic"] == "work"] == [(0, 6)], "settled")
            assert work.end() == 0
        tried = work.lines()
        assert ("work", "k-good", "m-good", "1", "0", "red", "good") in tried, tried
        count = {v: sum(t[6] == v for t in tried) for v in ("good", "late", "bad", "broken", "slow", "family")}
        assert count == {"good": 1, "late": 2, "bad": 1, "broken": 2, "slow": 2, "family": 2}, tried
        assert [t[3] for t in tried if t[6] == "late"] == ["1", "2"], tried
        reasons = {i: h["hf-dlq-reason"] for i, h in letters().items()}
        assert reasons == {"m-bad": "rejected", "m-broken": "exhausted", "m-slow": "timeout", "m-family": "timeout"}, reasons
        until(lambda: all(gone(pid) for pid, in work.lines(".slow")), "killed, and what they had started too")
        a_dead_letter_is_replayed_and_dropped(cli, folder, letters)


def a_dead_letter_is_replayed_and_dropped(cli, folder, letters):
    assert cli("dlq", "replay", "m-bad", "--group", "w") == "replay 1\n"
    assert set(letters()) == {"m-broken", "m-slow", "m-family"}
    os.unlink(os.path.join(folder, "w.log"))
    with Work(cli, folder, "work", "w", "--attempts", "2") as work:
        until(lambda: "m-bad" in letters(), "the replayed one is rejected again")
        assert work.end() == 0
    assert work.lines() == [("work", "k-bad", "m-bad", "1", "0", "red", "bad")], work.lines()
    assert letters()["m-bad"]["hf-dlq-replays"] == "1" and letters()["m-slow"]["hf-dlq-replays"] == "0"
    shown = json.loads(cli("dlq", "show", "m-bad", "--group", "w"))
    assert shown["value"] == "bad" and dict(shown["headers"])["my.colour"] == "red", shown
    cli("dlq", "drop", "m-nobody", "--group", "w", status=1)
    assert cli("dlq", "drop", "--all", "--group", "w") == "drop 4\n" and not letters()
    cli("dlq", "drop", "--group", "w", status=2)
    cli("dlq", "list", status=2)


def a_program_that_cannot_run_stops_the_worker_and_condemns_nothing(cli):
    for program in ("/no/such/program", "/etc/passwd"):
        cli("work", "--topic", "work", "--group", "typo", "--", program, status=1)
    assert all(r["offset"] == 0 for r in cli.json("group", "describe", "typo"))
    assert "dlq.typo" not in [t["topic"] for t in cli.json("topic", "list")]


def a_program_dies_with_its_worker(cli):
    cli("send", "orphans", "slow")
    with tempfile.TemporaryDirectory(prefix="holdfast-work-") as folder:
        with Work(cli, folder, "orphans", "orphan") as work:
            until(lambda: work.lines(".slow"), "the slow one runs")
            assert work.end(signal.SIGKILL) == -signal.SIGKILL
            (pid,), = work.lines(".slow")
            until(lambda: gone(pid), "killed with the worker")


TESTS = [receipts_name_the_place_of_each_message, a_message_that_is_refused_fails_the_command,
         tail_and_send_carry_a_topic_whole, a_line_of_json_says_its_own_name_and_time,
         ids_of_any_kind_are_shown_and_cancelled, a_letter_is_a_line_whatever_is_in_it,
         a_flag_that_would_be_left_out_of_account_is_refused, digits_are_an_offset_and_a_date_is_a_time,
         topics_are_made_described_and_deleted, a_wrong_word_is_told_with_what_it_may_be, http_is_asked_of_the_same_host,
         a_list_ends_at_its_limit_and_zero_is_none, a_group_reads_on_and_is_reset,
         a_programs_exit_status_settles_its_message, a_program_that_cannot_run_stops_the_worker_and_condemns_nothing,
         a_program_dies_with_its_worker]


def main():
    with tempfile.TemporaryDirectory(prefix="holdfast-cli-") as folder, Holdfast(sys.argv[1], folder) as server:
        cli = Cli(os.path.abspath(sys.argv[1]), server)
        for test in [t for t in TESTS if t.__name__ in sys.argv[2:] or not sys.argv[2:]]:
            began = time.monotonic()
            test(cli)
            print(f"ok {test.__name__} ({time.monotonic() - began:.1f} s)", flush=True)
        assert server.stop() == 0


if __name__ == "__main__":
    main()

#!/usr/bin/python3 -B
"""The client commands against a server: what they print, what a pipe of them carries, how they end.

    cli.py BINARY
"""

import json
import os
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from holdfast import Holdfast  # noqa: E402


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
    subprocess.run(["kcat", "-P", "-b", cli.at[1], "-t", "origin", "-K:"], input=b"\xff\xfe:\x00\xff\n", check=True, timeout=60)
    exported = cli("tail", "origin", "--from", "earliest", "--exit", "--json")
    assert cli("send", "copy", "--jsonl", stdin=exported) == "sent 3\n"
    strip = lambda topic: [{k: v for k, v in m.items() if k not in ("topic", "offset", "timestamp", "partition")}
                           for m in cli.json("tail", topic, "--from", "earliest", "--exit")]
    assert strip("copy") == strip("origin"), (strip("copy"), strip("origin"))
    assert strip("copy")[0]["message_id"] == "m-1" and strip("copy")[1]["headers"] == [["h", "2"], ["h", "3"]]


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
    cli("topic", "delete", "one", "two")
    assert not {"one", "two"} & {t["topic"] for t in cli.json("topic", "list")}
    cli("topic", "delete", "one", status=1)
    cli("topic", "delete", "holdfast.delay", status=1)
    cli("topic", "nonsense", status=2)


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
    cli("group", "reset", "readers", status=2)


TESTS = [receipts_name_the_place_of_each_message, a_message_that_is_refused_fails_the_command,
         tail_and_send_carry_a_topic_whole, digits_are_an_offset_and_a_date_is_a_time,
         topics_are_made_described_and_deleted, a_group_reads_on_and_is_reset]


def main():
    with tempfile.TemporaryDirectory(prefix="holdfast-cli-") as folder, Holdfast(sys.argv[1], folder) as server:
        cli = Cli(os.path.abspath(sys.argv[1]), server)
        for test in TESTS:
            began = time.monotonic()
            test(cli)
            print(f"ok {test.__name__} ({time.monotonic() - began:.1f} s)", flush=True)
        assert server.stop() == 0


if __name__ == "__main__":
    main()

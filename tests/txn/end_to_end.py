#!/usr/bin/python3
"""Transactions end to end: kcat is the producer, holdfast check the checker, holdfast txn the operator.

    end_to_end.py HOLDFAST
"""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
sys.dont_write_bytecode = True
from until import until  # noqa: E402
from holdfast import Holdfast  # noqa: E402

FLAGS = ["--txn.check.after", "300ms", "--txn.check.interval", "100ms", "--txn.check.attempts", "3"]
GROUP = "shop"


class World:
    def __init__(self, binary, folder):
        self.binary, self.folder = binary, folder
        self.server = Holdfast(binary, os.path.join(folder, "server"), *FLAGS)
        self.server.start()

    def produce(self, op, ident, *headers, value=""):
        flags = [f"hf-op={op}", f"hf-group={GROUP}", *headers]
        command = ["kcat", "-P", "-b", self.server.kafka, "-t", "holdfast.txn", "-X", "partitioner=murmur2_random", "-K", ":"]
        for header in flags:
            command += ["-H", header]
        subprocess.run(command, input=f"{ident}:{value}\n", text=True, check=True, timeout=60)

    def prepare(self, ident, topic, value, *headers):
        self.produce("prepare", ident, f"hf-topic={topic}", *headers, value=value)

    def read(self, topic):
        """Every record there is: (key, value, headers)."""
        done = subprocess.run(["kcat", "-C", "-b", self.server.kafka, "-t", topic, "-o", "beginning", "-e", "-f",
                               "%k\t%s\t%h\n"], capture_output=True, text=True, timeout=60)
        return [tuple(line.split("\t")) for line in done.stdout.splitlines()]

    def values(self, topic):
        return [record[1] for record in self.read(topic)]

    def get(self, path):
        with urllib.request.urlopen(f"http://{self.server.http}{path}", timeout=60) as answer:
            return json.load(answer)

    def state(self, ident):
        return self.get(f"/v1/txn/{GROUP}/{ident}")["state"]

    def until_state(self, ident, state):
        until(lambda: self.state(ident) == state, f"{ident} to be {state}")

    def command(self, *arguments):
        done = subprocess.run([self.binary, "txn", "--api", self.server.http, *arguments], capture_output=True,
                              text=True, timeout=60)
        return done.returncode, done.stdout, done.stderr

    def checker(self, *program):
        return subprocess.Popen([self.binary, "check", "--server", self.server.kafka, "--api", self.server.http,
                                 "--group", GROUP, "--", *program])


def end(process):
    process.send_signal(signal.SIGTERM)
    status = process.wait(60)
    assert status == 0, status


def commit_makes_all_halves_visible(w):
    w.prepare("1042", "orders.placed", "placed", "hf-key=1042")
    w.prepare("1042", "orders.audit", "audit")
    assert w.state("1042") == "prepared"
    assert not w.values("orders.placed")
    w.produce("commit", "1042")
    w.until_state("1042", "committed")
    until(lambda: w.values("orders.audit") == ["audit"], "the second half")
    key, value, headers = w.read("orders.placed")[0]
    assert (key, value) == ("1042", "placed") and "hf-message-id=holdfast.txn/0/0@" in headers, headers
    assert "hf-op" not in headers and "hf-group" not in headers, headers


def rollback_makes_none_visible(w):
    w.prepare("1043", "orders.placed", "dropped")
    w.produce("rollback", "1043")
    assert w.state("1043") == "rolled back"
    assert "dropped" not in w.values("orders.placed")


def every_record_has_an_outcome(w):
    w.produce("rollback", "1042")
    w.produce("commit", "nobody")
    outcomes = servers_outcomes(w)
    assert outcomes[:2] == [("nobody", "unknown id"), ("1042", "contradicted")], outcomes
    assert w.get("/v1/txn-outcomes?partition=0&offset=2") == {"outcome": "applied"}
    horizon = time.time() * 1000 - 7 * 86400000  # id.memory.ms
    assert horizon - 60000 < w.get("/v1/txn-outcomes")["id_horizon_ms"] < horizon + 60000


def servers_outcomes(w):
    w.get("/v1/txn-outcomes?partition=0&offset=6")
    return [(o["id"], o["outcome"]) for o in w.get("/v1/txn-outcomes")["outcomes"]]


def a_delayed_half_starts_at_the_commit(w):
    w.prepare("1044", "orders.unpaid", "unpaid", "hf-delay=4s", "hf-key=1044", "hf-id=1044")
    began = time.time() * 1000
    w.produce("commit", "1044")
    w.until_state("1044", "committed")
    seen, seen_at = w.values("orders.unpaid"), time.time() * 1000
    until(lambda: w.values("orders.unpaid") == ["unpaid"], "the delayed half message")
    due = int(re.search(r"hf-due=(\d+)", w.read("orders.unpaid")[0][2])[1])
    assert due >= began + 4000 - 1, (due, began)
    assert not seen or seen_at >= due, (seen_at, due)


def a_vanished_producer_is_asked_and_answered_for(w):
    marker = os.path.join(w.folder, "asked")
    answer = 'read v; echo "$HF_TXN_ID $v $HF_ATTEMPT $HF_HALVES" >>"$0"; case $HF_TXN_ID in good) exit 0;; bad) exit 1;; esac; exit 75'
    w.prepare("good", "orders.placed", "good")
    w.prepare("bad", "orders.placed", "bad")
    w.prepare("unsure", "orders.placed", "unsure")
    checker = w.checker("sh", "-c", answer, marker)
    try:
        w.until_state("good", "committed")
        w.until_state("bad", "rolled back")
        w.until_state("unsure", "parked")
    finally:
        end(checker)
    until(lambda: "good" in w.values("orders.placed"), "the half message")
    assert not {"bad", "unsure"} & set(w.values("orders.placed"))
    with open(marker) as f:
        asked = f.read().splitlines()
    assert "good good 1 1 orders.placed" in asked, asked
    assert [a for a in asked if a.startswith("unsure")] == [f"unsure unsure {n} 1 orders.placed" for n in (1, 2, 3)]


def parked_ones_survive_a_crash_and_are_resolved_by_an_operator(w):
    w.server.stop(signal.SIGKILL)
    w.server.start()
    status, out, _ = w.command("list", "--state", "parked")
    assert status == 0 and "unsure" in out and len(out.splitlines()) == 2, out
    status, out, _ = w.command("show", GROUP, "unsure")
    assert status == 0 and "parked" in out and "3 put, 3 read" in out, out
    status, out, err = w.command("commit", GROUP, "unsure")
    assert (status, out.strip()) == (0, "applied"), (out, err)
    until(lambda: "unsure" in w.values("orders.placed"), "the half message")
    assert w.command("commit", GROUP, "unsure")[:2] == (0, "repeated\n")
    status, out, err = w.command("rollback", GROUP, "unsure")
    assert status == 1 and out == "contradicted\n" and "otherwise" in err, (out, err)
    status, _, err = w.command("rollback", GROUP, "nobody")
    assert status == 1 and "unknown id" in err, err
    assert w.command("list")[1].count("\n") == 1
    assert w.command("commit", GROUP)[0] == 2


def nothing_came_twice(w):
    for topic, expected in (("orders.placed", ["good", "placed", "unsure"]), ("orders.audit", ["audit"]),
                            ("orders.unpaid", ["unpaid"])):
        assert sorted(w.values(topic)) == expected, (topic, w.values(topic))


def a_program_that_is_not_there_burns_no_attempt(w):
    w.prepare("typo", "orders.placed", "typo")
    checker = w.checker("/no/such/program")
    assert checker.wait(60) == 1
    assert w.get(f"/v1/txn/{GROUP}/typo")["checks_read"] == 0
    assert w.command("rollback", GROUP, "typo")[0] == 0


TESTS = [commit_makes_all_halves_visible, rollback_makes_none_visible, every_record_has_an_outcome,
         a_delayed_half_starts_at_the_commit, a_vanished_producer_is_asked_and_answered_for,
         parked_ones_survive_a_crash_and_are_resolved_by_an_operator, a_program_that_is_not_there_burns_no_attempt,
         nothing_came_twice]


def main():
    with tempfile.TemporaryDirectory(prefix="holdfast-txn-") as folder:
        w = World(sys.argv[1], folder)
        try:
            for test in TESTS:
                test(w)
                print("ok", test.__name__, flush=True)
        finally:
            status = w.server.stop()
        assert status == 0, status


if __name__ == "__main__":
    main()

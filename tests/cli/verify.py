#!/usr/bin/python3 -B
"""holdfast verify on a folder that a server left: nothing to say of a whole one, and each damage by file, byte and offset.

    verify.py BINARY
"""

import glob
import json
import os
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from holdfast import Holdfast  # noqa: E402

BINARY = os.path.abspath(sys.argv[1])


def run(*args, status=0, stdin=""):
    p = subprocess.run([BINARY, *args], input=stdin, capture_output=True, text=True, timeout=120)
    assert p.returncode == status, (args, p.returncode, p.stdout, p.stderr)
    return p.stdout + p.stderr


def fill(server, topic, count):
    lines = "".join(f'{{"topic": "{topic}", "value": "message {i} {"x" * 200}"}}\n' for i in range(count))
    run("send", "--jsonl", "--server", server.kafka, "--api", server.http, stdin=lines)


def tree(data):
    return {f: open(f, "rb").read() for f in glob.glob(data + "/**/*", recursive=True) if os.path.isfile(f)}


def flip(path, byte):
    with open(path, "r+b") as f:
        f.seek(byte)
        c = f.read(1)[0]
        f.seek(byte)
        f.write(bytes([c ^ 4]))


def nothing_is_said_of_a_whole_folder_and_nothing_is_changed(data):
    before = tree(data)
    out = run("verify", "--data", data)
    assert "damaged=0 rebuilt=0" in out and "\ndamaged" not in out, out
    after = tree(data)
    lock = os.path.join(data, "LOCK")
    assert {k: v for k, v in before.items() if k != lock} == {k: v for k, v in after.items() if k != lock}


def damage_is_named_by_file_byte_and_offset(data):
    path = "topics/orders-0/00000000000000000000.log"
    flip(os.path.join(data, path), 9000)
    out = run("verify", "--data", data, status=1)
    lines = [line for line in out.splitlines() if line.startswith("damaged ")]
    assert len(lines) == 1 and f"file={path} byte=" in lines[0] and "offset=" in lines[0], out
    flip(os.path.join(data, path), 9000)


def an_index_is_told_as_what_can_be_made_again(data):
    path = "topics/orders-0/00000000000000000000.index"
    flip(os.path.join(data, path), 5)
    out = run("verify", "--data", data, status=1)
    assert f"rebuilt file={path} byte=5" in out and "damaged=0 rebuilt=1" in out, out
    flip(os.path.join(data, path), 5)


def a_start_that_would_be_refused_is_said_to_be(data):
    path = glob.glob(data + "/topics/__holdfast_state-0/*.log")[0]
    flip(path, 100)
    out = run("verify", "--data", data, status=1)
    assert f"damaged file={os.path.relpath(path, data)}" in out and "refused" in out, out
    flip(path, 100)


def what_is_no_data_folder_is_refused(data):
    folder = data + "-empty"
    os.mkdir(folder)
    run("verify", "--data", folder, status=2)
    assert os.listdir(folder) == []
    run("verify", "--data", data + "-missing", status=2)
    assert not os.path.exists(data + "-missing")


def a_folder_that_is_served_is_refused(data):
    with Holdfast(BINARY, os.path.dirname(data)) as server:
        out = run("verify", "--data", data, status=1)
        assert str(server.pid) in out, out
        assert server.stop() == 0


def read(server, topic):
    return run("tail", topic, "--from", "earliest", "--exit", "--json", "--server", server.kafka, "--api", server.http)


def a_partition_folder_is_adopted_at_its_offsets(data):
    """Kafka's layout is ours: a folder of another server will do."""
    home = data + "-adopting"
    with Holdfast(BINARY, os.path.dirname(data)) as server:
        want = read(server, "orders")
        assert len(want.splitlines()) == 400
        assert server.stop() == 0
    folder = os.path.join(data, "topics", "orders-0")
    out = run("verify", "--data", os.path.join(home, "data"), "--adopt", folder, status=1)  # no folder to make it in
    os.mkdir(home)
    out = run("verify", "--data", os.path.join(home, "data"), "--adopt", folder)
    assert "adopted topic=orders partition=0 start=0 end=400 records=400" in out, out
    run("verify", "--data", os.path.join(home, "data"), "--adopt", folder, status=1)  # it is there
    with Holdfast(BINARY, home) as server:
        assert read(server, "orders") == want
        assert server.stop() == 0
    assert "damaged=0 rebuilt=0" in run("verify", "--data", os.path.join(home, "data"))


def what_is_damaged_is_given_up_only_when_asked_and_told(data):
    """Last: it changes the folder."""
    path = os.path.join(data, "topics", "orders-0", "00000000000000000000.log")
    size = os.path.getsize(path)
    flip(path, 9000)
    with Holdfast(BINARY, os.path.dirname(data)) as server:  # to be served is not to be changed
        assert server.stop() == 0
    assert os.path.getsize(path) == size
    out = run("verify", "--data", data, "--salvage")
    lost = [line for line in out.splitlines() if line.startswith("lost ")]
    assert lost == ["lost topic=orders partition=0 from=0 to=100"] and "salvaged lost=100" in out, out
    assert "damaged=0" in run("verify", "--data", data)
    with Holdfast(BINARY, os.path.dirname(data)) as server:
        left = [json.loads(line)["offset"] for line in read(server, "orders").splitlines()]
        assert left == list(range(100, 400)), left
        fill(server, "orders", 1)
        assert server.stop() == 0
    assert "salvaged lost=0" in run("verify", "--data", data, "--salvage")


TESTS = [nothing_is_said_of_a_whole_folder_and_nothing_is_changed, damage_is_named_by_file_byte_and_offset,
         an_index_is_told_as_what_can_be_made_again, a_start_that_would_be_refused_is_said_to_be,
         what_is_no_data_folder_is_refused, a_folder_that_is_served_is_refused,
         a_partition_folder_is_adopted_at_its_offsets, what_is_damaged_is_given_up_only_when_asked_and_told]


def main():
    with tempfile.TemporaryDirectory(prefix="holdfast-verify-") as folder:
        with Holdfast(BINARY, folder) as server:
            for _ in range(4):  # batches
                fill(server, "orders", 100)
            assert server.stop() == 0
        for test in TESTS:
            test(server.data)
            print(f"ok {test.__name__}", flush=True)


if __name__ == "__main__":
    main()

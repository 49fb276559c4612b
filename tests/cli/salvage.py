#!/usr/bin/python3 -B
"""Damage to each kind of file of a data folder, with the real binary: what the server says, what verify says, and what is
there after verify --salvage.

    salvage.py BINARY [--table] [--only WORD]

Each cell is one damage (a bit flipped, cut to half, extended, emptied, deleted) to one file of a folder that a server left,
after a clean stop or a kill. What must hold:

    the server starts, or says which file is damaged and ends
    verify names the file, unless its bytes mean nothing, or were made again by a start
    after --salvage the server starts, says nothing of damage, and takes and gives messages
    of every topic exactly those offsets are missing that were told as lost; what is there is what was sent
    what is pending is there, unless a run was given up; a group's offsets, unless a part of the state was lost
    a file that was changed or left out lies in salvaged/ as it was

Without --table a few cells of each kind of file are tried; with it all are, and a table is printed."""

import argparse
import glob
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from confluent_kafka import Consumer, Producer, TopicPartition  # noqa: E402
from holdfast import Holdfast  # noqa: E402
from until import until  # noqa: E402

FLAGS = ["--segment.bytes=1MiB", "--schedule.memory.bytes=1MiB", "--log.retention.check.interval.ms=1h"]
ORDERS, LATER, GROUP, LAST = 600, 4000, "readers", b"one more"


class Cell:
    def __init__(self, stop, file, damage):
        self.stop, self.file, self.damage = stop, file, damage
        self.server = self.verify = self.salvage = ""
        self.wrong = []

    def __str__(self):
        return f"{self.stop:6} {self.file:22} {self.damage:8} {self.server:9} {self.verify:9} {self.salvage}"


# ---- the folder ----

def fill(server):
    producer = Producer({"bootstrap.servers": server.kafka, "acks": "all", "linger.ms": 0, "log_level": 0})
    for i in range(ORDERS):
        producer.produce("orders", value=f"order {i} {'x' * 5000}", partition=0)
        if i % 10 == 9:
            producer.flush(60)
    for i in range(LATER):
        producer.produce("holdfast.delay", key=f"k{i}", value="y" * 300,
                         headers=[("hf-topic", b"later"), ("hf-delay", b"30d"), ("hf-id", f"id/{i}".encode())])
    for i in range(20):
        producer.produce("holdfast.txn", key=f"t{i}", value="half",
                         headers=[("hf-group", b"g"), ("hf-op", b"prepare"), ("hf-topic", b"orders"), ("hf-check-after", b"1h"),
                                  ("hf-key", f"t{i}".encode())])
    assert producer.flush(60) == 0
    consumer = Consumer({"bootstrap.servers": server.kafka, "group.id": GROUP, "log_level": 0})
    consumer.commit(offsets=[TopicPartition("orders", 0, 123)], asynchronous=False)
    consumer.close()


def pending(server):
    return sum(int(v) for k, v in server.metrics().items() if k.startswith("holdfast_schedule_pending{") or
               k == "holdfast_schedule_pending")


def make(binary, folder, stop):
    server = Holdfast(binary, folder, *FLAGS)
    server.start()
    assert server.stop() == 0  # so that both superblocks were used
    server.start()
    fill(server)
    until(lambda: int(server.metrics().get("holdfast_schedule_checkpoints_total", 0)) > 0, "a run")
    assert server.stop(signal.SIGKILL if stop == "kill" else signal.SIGTERM) in (0, -9)
    return server.data


def generation(path):
    with open(path, "rb") as f:
        return int.from_bytes(f.read(16)[8:], "big")


def files_of(data):
    """A file of each kind: what it is called here, and its path."""
    newest = max((0, 1), key=lambda i: generation(f"{data}/superblock-{i}"))
    parts = {"state": "__holdfast_state-0", "topic": "orders-0", "delay": "holdfast.delay-0", "txn": "holdfast.txn-0"}
    found = {"meta": "meta", "superblock newest": f"superblock-{newest}", "superblock older": f"superblock-{1 - newest}",
             "snapshot newest": f"snapshot-{newest}", "snapshot older": f"snapshot-{1 - newest}"}
    found["superblock both"] = ("superblock-0", "superblock-1")
    found["snapshot both"] = ("snapshot-0", "snapshot-1")
    found["journal folder"] = "journal"
    used = [f for f in glob.glob(data + "/journal/*") if open(f, "rb").read(516)[512:516] == b"HFJG"]
    found["journal"] = os.path.relpath(max(used, key=lambda f: int.from_bytes(open(f, "rb").read(16)[8:], "big")), data)
    found["run"] = os.path.relpath(sorted(glob.glob(data + "/runs/*"))[0], data)
    for name, part in parts.items():
        logs = sorted(glob.glob(f"{data}/topics/{part}/*.log"))
        base = logs[0][:-4]
        found[f"{name} first log"] = os.path.relpath(logs[0], data)
        found[f"{name} last log"] = os.path.relpath(logs[-1], data)
        for ext in ("index", "timeindex", "manifest"):
            if os.path.exists(f"{base}.{ext}") and os.path.getsize(f"{base}.{ext}") > 0:
                found[f"{name} {ext}"] = os.path.relpath(f"{base}.{ext}", data)
        if name in ("state", "topic"):
            found[f"{name} metadata"] = f"topics/{part}/partition.metadata"
            found[f"{name} epochs"] = f"topics/{part}/leader-epoch-checkpoint"
            found[f"{name} folder"] = f"topics/{part}"
    return found


DAMAGES = ["flip", "cut", "extend", "empty", "delete"]


def end_of(path):
    """Where the file's content ends: preallocated zeros behind it mean nothing."""
    with open(path, "rb") as f:
        return len(f.read().rstrip(b"\0")) or os.path.getsize(path)


def damage(data, name, how):
    for one in (name if isinstance(name, tuple) else (name,)):
        path = os.path.join(data, one)
        if os.path.isdir(path):
            shutil.rmtree(path)
            continue
        size = end_of(path)
        if how == "delete":
            os.unlink(path)
            continue
        with open(path, "r+b") as f:
            if how == "flip":
                at = size // 2 if "journal" not in one else 512 + (size - 512) // 2
                f.seek(at)
                byte = f.read(1)[0]
                f.seek(at)
                f.write(bytes([byte ^ 0x10]))
            elif how == "cut":
                f.truncate(size // 2)
            elif how == "extend":
                f.seek(0, 2)
                f.write(b"Z" * 700)
            else:
                f.truncate(0)


# ---- one cell ----

def run(binary, *args):
    p = subprocess.run([binary, *args], capture_output=True, text=True, timeout=120)
    return p.returncode, p.stdout, p.stderr


def read(server, topic):
    """offset -> value of partition 0, up to the message LAST."""
    consumer = Consumer({"bootstrap.servers": server.kafka, "group.id": "look", "check.crcs": True, "enable.auto.commit": False, "auto.offset.reset": "earliest", "log_level": 0})
    consumer.assign([TopicPartition(topic, 0, 0)])
    found, deadline = {}, time.monotonic() + 60
    while time.monotonic() < deadline:
        for m in consumer.consume(1000, 0.1):
            if m.error() is None and m.value() == LAST:
                consumer.close()
                return found
            if m.error() is None:
                found[m.offset()] = m.value().decode()
    raise RuntimeError(f"{topic} was not read to its end in 60 s")


def committed(server):
    consumer = Consumer({"bootstrap.servers": server.kafka, "group.id": GROUP, "log_level": 0})
    offset = consumer.committed([TopicPartition("orders", 0)], timeout=60)[0].offset
    consumer.close()
    return offset


def try_server(binary, folder, cell):
    server = Holdfast(binary, folder, *FLAGS)
    try:
        server.start()
        cell.server = "starts"
        server.stop(signal.SIGKILL)
    except RuntimeError as error:
        cell.server = "refused"
        if "damaged file=" not in str(error):
            cell.wrong.append(f"refused, and no file was named: {error}")


def try_verify(binary, data, names, cell):
    status, out, err = run(binary, "verify", "--data", data)
    told = [line for line in out.splitlines() if line.startswith(("damaged ", "rebuilt "))]
    named = any(f"file={n}" in line for n in names for line in told)
    cell.verify = "named" if named else "told" if told else "nothing"
    if (cell.server == "refused") != ("refused:" in out) and cell.file != "run":
        cell.wrong.append(f"server {cell.server}, verify says: {out}{err}")
    if cell.server == "refused" and not told:
        cell.wrong.append(f"verify: nothing is named: {out}{err}")
    return status


def lost_of(out):
    lost = {}
    for line in out.splitlines():
        if line.startswith("lost "):
            f = dict(x.split("=") for x in line.split()[1:])
            lost.setdefault(f["topic"], []).append((int(f["from"]), int(f["to"])))
    return lost


def look(server, cell, out):
    producer = Producer({"bootstrap.servers": server.kafka, "acks": "all", "log_level": 0})
    answered = []
    producer.produce("orders", value=LAST, partition=0, on_delivery=lambda e, m: answered.append(e))
    if producer.flush(60) or answered != [None]:
        cell.wrong.append(f"a message is not taken: {answered}")
    lost = lost_of(out)
    gone = {o for a, b in lost.get("orders", []) for o in range(a, min(b, ORDERS))}
    found = read(server, "orders")
    for o in range(ORDERS):
        if (o in found) == (o in gone):
            cell.wrong.append(f"offset {o} of orders: {'told as lost, but there' if o in gone else 'missing, not told'}")
            break
    if any(not v.startswith(f"order {o} ") for o, v in found.items()):
        cell.wrong.append("a message is another")
    parts = [f"orders {len(gone)}"] if gone else []
    parts += [f"{t} lost" for t in lost if t != "orders"]
    if pending(server) != LATER:
        parts.append(f"pending {pending(server)}")
        if not any(t in lost for t in ("__holdfast_state", "holdfast.delay")) and "run" not in out:
            cell.wrong.append(f"pending: {pending(server)}")
    if committed(server) != 123:
        parts.append("group offset lost")
        if "__holdfast_state" not in lost:
            cell.wrong.append(f"committed: {committed(server)}")
    parts += ["given up: " + line.split('"')[1] for line in out.splitlines() if line.startswith("given_up")]
    cell.salvage = ", ".join(parts) or "all is there"


def content(path):
    """Without the zeros at the end; nothing if there is no such file."""
    if not os.path.isfile(path):
        return b""
    with open(path, "rb") as f:
        return f.read().rstrip(b"\0")


def is_kept(name, cell):
    """Whether the salvage sets the file aside if it changes it: of a refused start all but what can be made again; else batches.
    Any start writes over what lies behind the state's end, and after a kill what the journal has in full."""
    if cell.server == "refused":
        return not name.endswith(("index", ".manifest", "-checkpoint"))
    return name.endswith(".log") and cell.verify == "named" and cell.damage != "extend"


def try_salvage(binary, folder, paths, cell):
    data = os.path.join(folder, "data")
    before = {name: content(os.path.join(data, name)) for name in paths}
    status, out, err = run(binary, "verify", "--data", data, "--salvage")
    if status:
        cell.wrong.append(f"salvage: {status} {out}{err}")
        return
    for name, was in before.items():
        aside = content(os.path.join(data, "salvaged", "1", name.replace("/", "+")))
        if was not in (b"", aside, content(os.path.join(data, name))) and is_kept(name, cell):
            cell.wrong.append(f"{name} is another now, and not set aside")
    server = Holdfast(binary, folder, *FLAGS)
    try:
        server.start()
        look(server, cell, out)
        if server.stop() != 0:
            cell.wrong.append("the clean stop failed")
    except RuntimeError as error:
        cell.wrong.append(f"does not start: {error} after {out}")
        return
    finally:
        server.stop(signal.SIGKILL)
    if "damaged file=" in server.log():
        cell.wrong.append(f"damaged again: {server.log()}")
    status, out, err = run(binary, "verify", "--data", data)
    if status and "damaged=0" in out and cell.file.startswith("superblock") and cell.damage == "extend":
        cell.salvage += ", what follows the sector is told again"  # it is nothing, and stays
    elif status or "damaged=0 rebuilt=0" not in out:
        cell.wrong.append(f"verify afterwards: {out}{err}")


def try_cell(binary, folder, made, stop, file, how):
    cell = Cell(stop, file, how)
    data, names = made
    paths = names[file] if isinstance(names[file], tuple) else (names[file],)
    for step in ("server", "salvage"):
        place = os.path.join(folder, step)
        shutil.copytree(data, os.path.join(place, "data"))
        damage(os.path.join(place, "data"), names[file], how)
    try_server(binary, os.path.join(folder, "server"), cell)
    try_verify(binary, os.path.join(folder, "salvage", "data"), paths, cell)
    try_salvage(binary, os.path.join(folder, "salvage"), paths, cell)
    for step in ("server", "salvage"):
        shutil.rmtree(os.path.join(folder, step))
    return cell


FEW = {("kill", "journal", "flip"), ("kill", "meta", "delete"), ("kill", "superblock both", "empty"), ("kill", "snapshot newest", "flip"),
       ("clean", "state first log", "flip"), ("clean", "topic metadata", "flip"), ("clean", "topic folder", "delete"),
       ("clean", "run", "cut"), ("kill", "topic last log", "delete"), ("clean", "snapshot both", "delete")}


def main():
    options = argparse.ArgumentParser()
    options.add_argument("binary")
    options.add_argument("--table", action="store_true")
    options.add_argument("--only", default="")
    o = options.parse_args()
    binary, wrong = os.path.abspath(o.binary), 0
    with tempfile.TemporaryDirectory(prefix="holdfast-salvage-") as folder:
        for stop in ("clean", "kill"):
            data = make(binary, os.path.join(folder, stop), stop)
            names = files_of(data)
            for file in names:
                for how in DAMAGES if not file.endswith("folder") else ["delete"]:
                    if not o.table and (stop, file, how) not in FEW or o.only not in f"{stop} {file} {how}":
                        continue
                    cell = try_cell(binary, folder, (data, names), stop, file, how)
                    print(cell, flush=True)
                    for line in cell.wrong:
                        print(f"    wrong: {line}", flush=True)
                    wrong += len(cell.wrong)
    print(f"{wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/python3
"""Every advertised (API, version) is sent a frame that kafka-python 3 made, and its answer is read by kafka-python 3;
then the frame is cut at every byte, and every length and count in it is made huge: each time the connection is closed
with one log line, and nothing else happens. At last huge numbers are written over every byte, whatever it means: the
connection is closed, with its log line, or answered.

    frames.py BINARY PYTHON_LIBRARY_FOLDER [counted|sanitized]     a sanitizer's own memory is not counted
"""

import os
import re
import socket
import struct
import subprocess
import sys
import tempfile

binary, library = sys.argv[1:3]
sys.path[:0] = [library, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support")]
sys.dont_write_bytecode = True
from holdfast import Holdfast  # noqa: E402
from until import until  # noqa: E402
import kafka.protocol.admin  # noqa: E402
import kafka.protocol.consumer  # noqa: E402
import kafka.protocol.metadata  # noqa: E402
import kafka.protocol.producer  # noqa: E402
from kafka.protocol.metadata import ApiVersionsResponse  # noqa: E402
from kafka.record.default_records import DefaultRecordBatchBuilder  # noqa: E402

CORRELATION = 0x01020304
MODULES = (kafka.protocol.admin, kafka.protocol.consumer, kafka.protocol.metadata, kafka.protocol.producer)
CLASSES = {}
for module in MODULES:
    for name in dir(module):
        if name.endswith("Request") and hasattr(getattr(module, name), "API_KEY"):
            request = getattr(module, name)
            CLASSES[request.API_KEY] = (request, getattr(module, name[:-len("Request")] + "Response"))


def batch():
    builder = DefaultRecordBatchBuilder(magic=2, compression_type=0, is_transactional=0, producer_id=-1,
                                        producer_epoch=-1, base_sequence=-1, batch_size=10000)
    builder.append(0, timestamp=1, key=b"k", value=b"v", headers=[])
    return bytes(builder.build())


# What a plausible request says; all that is not named here gets something by its type.
SAID = {
    "topic": "frames", "name": "frames", "records": batch(), "topic_names": ["no-such-topic"], "acks": -1,
    "transactional_id": None, "partition_max_bytes": 1000, "max_bytes": 1000, "min_bytes": 0, "max_wait_ms": 1,
    "session_id": 0, "session_epoch": -1, "fetch_offset": 0, "timestamp": -1, "replica_id": -1, "isolation_level": 0,
    "current_leader_epoch": -1, "last_fetched_epoch": -1, "num_partitions": 1, "replication_factor": 1,
    "assignments": [], "configs": [], "key_type": 0, "session_timeout_ms": 10000, "rebalance_timeout_ms": 10000,
    "generation_id": 1, "generation_id_or_member_epoch": 1, "member_id": "m", "group_instance_id": None,
    "committed_offset": 1, "cluster_id": None, "timeout_ms": 1000, "leader_epoch": 0,
    "allow_auto_topic_creation": True, "forgotten_topics_data": [],
}
TOPICS_OF_THEIR_OWN = {19: "created-{}", 20: "no-such-topic"}  # CreateTopics, DeleteTopics


def value_of(field, holder, version, key):
    name = field.name
    if name in SAID and not (key in TOPICS_OF_THEIR_OWN and name in ("name", "topic_names")):
        return SAID[name]
    if key in TOPICS_OF_THEIR_OWN and name == "name":
        return TOPICS_OF_THEIR_OWN[key].format(version)
    kind = type(field).__name__
    if kind == "StructArrayField":
        return [fill(getattr(holder, field.type_str), field, version, key)]
    if kind == "ArrayField":
        return ["text"] if "string" in str(field._json["type"]) else [0]
    of = str(field._json["type"])
    return {"string": "text", "bytes": b"bytes", "bool": False}.get(of, SAID.get(name, 0))


def fields_of(holder, version):
    return [f for f in holder._struct._fields if f._versions[0] <= version <= f._versions[1]]


def fill(holder, field, version, key):
    values = {}
    for f in fields_of(holder, version):
        if f._json.get("taggedVersions") or "uuid" in str(f._json["type"]):
            continue
        values[f.name] = value_of(f, holder, version, key)
    return holder(version=version, **values)


def frame_of(key, version):
    cls = CLASSES[key][0]
    request = fill(cls, None, version, key)
    request.with_header(correlation_id=CORRELATION, client_id="frames")
    return bytes(request.encode(version=version, header=True, framed=True))


def lengths_of(key, version, frame):
    """(place, form) of every length and count in the frame, found by that other library's tables: i2, i4, compact."""
    cls = CLASSES[key][0]
    flexible, found, at = cls.flexible_version_q(version), [(0, "i4"), (12, "i2")], 14 + len("frames")

    def length(form):
        nonlocal at
        found.append((at, form))
        if form == "compact":
            n = shift = 0
            while True:
                byte, at, shift = frame[at], at + 1, shift + 7
                n |= (byte & 0x7f) << (shift - 7)
                if byte < 0x80:
                    return n - 1
        size = int(form[1])
        n = int.from_bytes(frame[at:at + size], "big", signed=True)
        at += size
        return n

    def struct_(holder):
        for field in holder.untagged_fields(version):
            value(field)
        if flexible:
            assert length("compact") == -1, "frames of ours have no tags"

    def value(field):
        nonlocal at
        kind = type(field).__name__
        if kind in ("ArrayField", "StructArrayField"):
            for _ in range(length("compact" if flexible else "i4")):
                struct_(field.array_of) if kind == "StructArrayField" else value(field.array_of)
        elif field._type_str in ("string", "bytes", "records"):
            size = length("compact" if flexible else "i2" if field._type_str == "string" else "i4")
            at += max(0, size)
        else:
            at += 16 if field._type_str == "uuid" else field._type.size

    if flexible:
        assert length("compact") == -1
    struct_(cls._struct)
    assert at == len(frame), (key, version, at, len(frame))
    return found


def connect(server):
    s = socket.create_connection(("127.0.0.1", server.port), 5)
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return s


def receive(s, n):
    got = b""
    while len(got) < n:
        more = s.recv(n - len(got))
        if not more:
            raise ConnectionError("closed")
        got += more
    return got


def answer_of(s):
    return receive(s, struct.unpack(">i", receive(s, 4))[0])


def advertised(server):
    with connect(server) as s:
        s.sendall(frame_of(18, 0))
        answer = ApiVersionsResponse.decode(answer_of(s), version=0, header=True)
    return {k.api_key: (k.min_version, k.max_version) for k in answer.api_keys}


def check_valid(server, key, version):
    """The answer is one that the other library reads to its last byte."""
    request, response = CLASSES[key]
    with connect(server) as s:
        s.settimeout(10)
        s.sendall(frame_of(key, version))
        raw = answer_of(s)
    answer = response.decode(raw, version=version, header=True)
    assert answer._header.correlation_id == CORRELATION, (key, version)
    answer._header = None
    header = 4 + (1 if response.flexible_version_q(version) and key != 18 else 0)
    again = bytes(answer.encode(version=version, header=False))
    assert len(again) == len(raw) - header, f"{request.name} {version}: {raw[header:]!r} is read as {again!r}"


def check_last_fetched_epoch(server):
    """A reader whose last record is of an epoch that never was reads a history that is not this one (KIP-320)."""
    for epoch, error in ((-1, 0), (0, 0), (1, 1)):
        SAID["last_fetched_epoch"] = epoch
        with connect(server) as s:
            s.sendall(frame_of(1, 12))
            answer = CLASSES[1][1].decode(answer_of(s), version=12, header=True)
        partition = answer.responses[0].partitions[0]
        assert (partition.error_code, partition.diverging_epoch) == (error, None), (epoch, partition)
    SAID["last_fetched_epoch"] = -1


class Abuse:
    """Sends what is broken; counts what the server did with it."""

    def __init__(self, server):
        self.server = server
        self.answered = self.closed = self.waiting = 0
        self.witness = connect(server)  # a connection that nothing may disturb

    def send(self, bytes_):
        with connect(self.server) as s:
            s.settimeout(0.3)
            try:
                s.sendall(bytes_)
                answer_of(s)
                self.answered += 1
            except socket.timeout:
                self.waiting += 1  # a long poll, or a frame that announces more than came
            except ConnectionError:
                self.closed += 1

    def check_witness(self):
        self.witness.sendall(frame_of(18, 0))
        answer_of(self.witness)
        assert self.server.alive()


    def send_refused(self, bytes_, what):
        """What no reading makes sense of: closed, and not answered."""
        with connect(self.server) as s:
            s.settimeout(30)
            s.sendall(bytes_)
            try:
                answer = answer_of(s)
            except ConnectionError:
                self.closed += 1
                return
        raise AssertionError(f"{what}: answered by {answer!r}")


def cut(abuse, name, frame):
    """The length says as much as there is, so the request itself ends too early."""
    for n in range(4, len(frame)):
        abuse.send_refused(struct.pack(">i", n - 4) + frame[4:n], f"{name} cut at {n}")


HUGE = {"i2": [b"\x7f\xff"], "i4": [b"\x7f\xff\xff\xff"], "compact": [b"\xff\xff\xff\xff\x07", b"\xff\xff\xff\xff\x0f"]}


def make_huge(abuse, name, frame, lengths):
    """Each length and count alone; a compact one that is huge has more bytes than the one it replaces."""
    for at, form in lengths:
        for huge in HUGE[form]:
            end = at + (int(form[1]) if form != "compact" else 1)
            while form == "compact" and frame[end - 1] >= 0x80:
                end += 1
            sent = frame[:at] + huge + frame[end:]
            abuse.send_refused(sent if at == 0 else fit(sent), f"{name} huge at {at} of {len(frame)}")


def enlarge(abuse, frame, header):
    """Every place that might be a length: as int16, int32, compact."""
    for at in range(header, len(frame)):
        for huge in (b"\x7f\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff\x07"):
            abuse.send(frame[:at] + huge + frame[at + len(huge):] if at + len(huge) <= len(frame)
                       else fit(frame[:at] + huge))


def fit(frame):
    return struct.pack(">i", len(frame) - 4) + frame[4:]


def lines_told(server):
    lines = re.findall(r"frame_refused .*suppressed=(\d+)", server.log())
    return len(lines), sum(map(int, lines))


def refused(server):
    return int(server.metrics()["holdfast_frames_refused_total"])


def stored_by(server):
    """Topics and what has been written to them."""
    topics = subprocess.run([binary, "topic", "list", "--json", "--server", server.kafka], check=True, timeout=60,
                            capture_output=True, text=True).stdout
    return topics, server.metrics()["holdfast_log_appended_bytes_total"]


def check_one_line_each(server):
    """Slowly enough for the limiter: one log line for each."""
    frame = frame_of(3, 1)
    for _ in range(5):
        before = sum(lines_told(server))
        with connect(server) as s:
            s.sendall(struct.pack(">i", len(frame) - 5) + frame[4:-1])
            assert s.recv(1) == b""
        until(lambda: sum(lines_told(server)) != before, "a line")
        assert sum(lines_told(server)) == before + 1


def main():
    with tempfile.TemporaryDirectory(prefix="holdfast-frames-") as folder, Holdfast(binary, folder) as server:
        check_one_line_each(server)
        versions = advertised(server)
        assert versions[18] == (0, 4) and versions[0] == (0, 9) and versions[1] == (4, 12), versions
        pairs = [(k, v) for k, (low, high) in sorted(versions.items()) for v in range(low, high + 1)]
        for key, version in pairs:
            check_valid(server, key, version)
        print(f"{len(pairs)} pairs of API and version answered as another library reads them")
        check_last_fetched_epoch(server)
        abuse, before, stored, lengths = Abuse(server), refused(server), stored_by(server), 0
        for key, version in pairs:
            frame, name = frame_of(key, version), f"{CLASSES[key][0].__name__} {version}"
            found = lengths_of(key, version, frame)
            lengths += len(found)
            cut(abuse, name, frame)
            make_huge(abuse, name, frame, found)
            abuse.check_witness()
        assert refused(server) - before == abuse.closed
        assert stored_by(server) == stored, "a broken frame left something"
        print(f"cut at every byte, {lengths} lengths made huge: {abuse.closed} closed")
        for key, version in pairs:
            enlarge(abuse, frame_of(key, version), 4 + 2 + 2 + 4)
            abuse.check_witness()
        count = refused(server) - before
        print(f"{abuse.closed} closed, {abuse.answered} answered, {abuse.waiting} left waiting; "
              f"{server.memory_kb()} KiB")
        assert count == abuse.closed, (count, abuse.closed)
        assert lengths > 5 * len(pairs), lengths
        assert "sanitized" in sys.argv or server.memory_kb("RssAnon") < 64 * 1024

        def all_told():
            """The first line of a new second tells how many were not told."""
            abuse.send(struct.pack(">i", 3) + b"abc")
            return sum(lines_told(server)) == refused(server)

        until(all_told, "the lines to tell of all frames", step=0.3)
        assert server.stop() == 0
        assert "assert" not in server.log()


main()

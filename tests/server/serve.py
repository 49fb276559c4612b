#!/usr/bin/python3
"""holdfast serve as a process: settings and exit statuses, the ready line, systemd's notification, the lock, and by
strace: no answer to acks=all before a sync returned, fetches by sendfile, a failed sync ends the process.

    serve.py BINARY
"""

import contextlib
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time

here = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(here, "..", "support"))
sys.dont_write_bytecode = True
from cases import run_tests, test  # noqa: E402
from holdfast import Holdfast  # noqa: E402
from until import until  # noqa: E402
from kafka import KafkaConsumer, KafkaProducer, TopicPartition  # noqa: E402
from kafka.record.default_records import DefaultRecordBatchBuilder  # noqa: E402

binary = os.path.abspath(sys.argv[1])


def run(*args, env=None):
    return subprocess.run([binary, *args], capture_output=True, text=True, timeout=60, env=dict(os.environ, **(env or {})))


# ---- settings ----

@test
def exit_statuses_and_usage(folder):
    assert run().returncode == 2
    assert run("nonsense").returncode == 2
    assert run("help").returncode == 0
    assert re.fullmatch(r"holdfast \d+\.\d+\.\d+\n", run("--version").stdout)
    assert run("help", "nonsense").returncode == 2
    out = run("serve", "--help")
    assert run("help", "serve").stdout == out.stdout
    assert out.returncode == 0 and "--max.message.bytes" in out.stdout
    out = run("serve", "--nonsense")
    assert out.returncode == 2 and "unknown flag --nonsense" in out.stderr
    out = run("serve", "stray")
    assert out.returncode == 2 and "stray" in out.stderr


@test
def a_public_address_is_refused_without_insecure_bind(folder):
    for flags in (["--listen", "0.0.0.0:0"], ["--listen", "[::]:0"], ["--http", "0.0.0.0:0"], ["--listen", "10.0.0.1:9"]):
        out = run("serve", "--data", folder, *flags)
        assert out.returncode == 2 and "--insecure-bind" in out.stderr, (flags, out)
    for flags in (["--listen", "[::1]:0"], ["--listen", "localhost:0"]):
        assert run("serve", "--check-config", *flags).returncode == 0
    assert run("serve", "--check-config", "--listen", "0.0.0.0:0", "--insecure-bind").returncode == 0


@test
def an_address_that_is_none_is_a_wrong_setting(folder):
    for flag, text in (("listen", "nowhere"), ("listen", "127.0.0.1"), ("listen", ":9"), ("listen", "127.0.0.1:65536"),
                       ("listen", "127.0.0.1:9x"), ("http", "127.0.0.1:"), ("listen", "::1:9"), ("advertise", ":9"),
                       ("advertise", "broker.example:99999"), ("advertise", ""), ("advertise", "broker.example:")):
        out = run("serve", "--check-config", f"--{flag}", text)
        assert out.returncode == 2 and "such as" in out.stderr and flag in out.stderr, (flag, text, out)
    for text in ("broker.example", "broker.example:19092", "10.0.0.1:9", "[2001:db8::1]:9092", "[2001:db8::1]"):
        assert run("serve", "--check-config", "--advertise", text).returncode == 0, text


@test
def a_wrong_setting_is_told_with_its_value_and_what_it_may_be(folder):
    for name, value, may in (("log.level", "loud", "info"), ("delay.levels", "soon", "1 to 99 durations"),
                             ("destination.partitioner", "md5", "murmur2 or crc32"), ("retention.ms", "-2", "-1 for no limit"),
                             ("cleanup.policy", "burn", "compact"), ("socket.request.max.bytes", "65536", "exceed")):
        out = run("serve", "--check-config", f"--{name}", value)
        assert out.returncode == 2 and all(x in out.stderr for x in (name, value, may)), (name, out)


@test
def settings_come_from_file_environment_and_flags(folder):
    path = os.path.join(folder, "holdfast.conf")
    with open(path, "w") as f:
        f.write("num.partitions = 3\nsegment.bytes = 2MiB\n")
    out = run("serve", "--config", path, "--print-config", "--segment.bytes", "4MiB", env={"HOLDFAST_LISTEN": "127.0.0.1:1"})
    assert out.returncode == 0, out
    assert "num.partitions = 3\n" in out.stdout and "segment.bytes = 4194304\n" in out.stdout
    assert "listen = 127.0.0.1:1\n" in out.stdout
    with open(path, "w") as f:
        f.write(out.stdout)
    assert run("serve", "--config", path, "--print-config").stdout == out.stdout
    with open(path, "w") as f:
        f.write("num.partitionz = 3\n")
    out = run("serve", "--config", path, "--check-config")
    assert out.returncode == 2 and "num.partitionz" in out.stderr


# ---- the process ----

@test
def ready_line_health_and_a_clean_stop(folder):
    server = Holdfast(binary, folder).start()
    assert server.get("/healthz") == "ok\n" and server.get("/readyz") == "ready\n"
    assert "# TYPE holdfast_connections gauge" in server.get("/metrics")
    assert server.stop(signal.SIGTERM) == 0
    server.start()
    assert server.stop(signal.SIGINT) == 0


@test
def systemd_is_told(folder):
    path = os.path.join(folder, "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.bind(path)
        s.settimeout(30)
        os.environ["NOTIFY_SOCKET"] = path
        try:
            with Holdfast(binary, folder):
                assert s.recv(100) == b"READY=1"
        finally:
            del os.environ["NOTIFY_SOCKET"]


@test
def a_second_server_on_the_same_folder_names_the_first(folder):
    with Holdfast(binary, folder) as server:
        out = run("serve", "--data", server.data, "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0")
        assert out.returncode == 1 and str(server.pid) in out.stderr, out


@test
def a_port_in_use_is_a_failure_with_a_line(folder):
    with Holdfast(binary, folder) as server:
        out = run("serve", "--data", os.path.join(folder, "other"), "--listen", server.kafka, "--http", "")
        assert out.returncode == 1 and "listen_failed" in out.stderr and server.kafka in out.stderr, out


@test
def clients_are_told_the_advertised_address(folder):
    with Holdfast(binary, folder, "--advertise", "broker.example:19092") as server:
        out = subprocess.run(["kcat", "-L", "-b", server.kafka], capture_output=True, text=True, timeout=60).stdout
        assert "at broker.example:19092" in out, out


@test
def a_stop_is_quick_while_consumers_wait(folder):
    """A stop that waits for them takes at least 2 s; a machine that is busy may make any stop slow, not every one."""
    quickest = 1e9
    for _ in range(20):
        with Holdfast(binary, folder) as server:
            consumer = KafkaConsumer("t", bootstrap_servers=server.kafka, fetch_max_wait_ms=20000, request_timeout_ms=30000)
            consumer.poll(timeout_ms=300)
            began = time.monotonic()
            assert server.stop() == 0
            quickest = min(quickest, time.monotonic() - began)
            consumer.close(autocommit=False)
        if quickest < 1.5:
            return
    raise AssertionError(f"the quickest of 20 stops took {quickest:.1f} s")


# ---- under strace ----

def traced(folder, *flags):
    trace = os.path.join(folder, "trace")
    return trace, Holdfast(binary, folder, wrapper=["strace", "-f", "-qq", "-o", trace, *flags])


def calls(trace):
    """(name, text) of each system call at its return; a call that was interrupted in the listing is put together."""
    begun = {}
    with open(trace, errors="replace") as f:
        for line in f:
            pid, _, text = line.rstrip("\n").partition(" ")
            text = text.strip()
            if text.endswith("<unfinished ...>"):
                begun[pid] = text[:-len("<unfinished ...>")]
                yield "begin " + begun[pid].split("(")[0], text
                continue
            resumed = re.match(r"<\.\.\. (\w+) resumed>(.*)", text)
            if resumed:
                text = begun.pop(pid, resumed.group(1) + "(") + resumed.group(2)
            elif "(" in text:
                yield "begin " + text.split("(")[0], text
            if "(" in text:
                yield text.split("(")[0], text


@test
def acks_all_is_answered_after_its_sync_and_fetches_use_sendfile(folder):
    trace, server = traced(folder, "-s", "1000", "-e", "trace=recvfrom,sendto,writev,fdatasync,fsync,sendfile")
    with server:
        producer = KafkaProducer(bootstrap_servers=server.kafka, acks="all", linger_ms=0)
        for i in range(50):
            producer.send("synced", value=b"MARK%04d" % i).get(60)
        producer.close()
        consumer = KafkaConsumer(bootstrap_servers=server.kafka, consumer_timeout_ms=30000)
        consumer.assign([TopicPartition("synced", 0)])
        consumer.seek_to_beginning()
        assert sum(1 for _, record in zip(range(50), consumer)) == 50
        consumer.close()
    produce = sendfiles = answered = 0
    waiting = None  # descriptor of the connection whose produce was read
    synced = begun = False
    for name, text in calls(trace):
        if name == "recvfrom" and "MARK" in text:
            produce += 1
            waiting, synced, begun = re.match(r"recvfrom\((\d+)", text).group(1), False, False
        elif name in ("begin fdatasync", "begin fsync") and waiting:
            begun = True
        elif name in ("fdatasync", "fsync") and waiting and begun and text.endswith("= 0"):
            synced = True
        elif name in ("begin sendto", "begin writev") and waiting and re.match(rf"\w+\({waiting},", text):
            assert synced, f"answered before its sync: {text}"
            answered += 1
            waiting = None
        elif name == "sendfile":
            sendfiles += 1
    assert produce >= 50 and answered >= 50, (produce, answered)
    assert sendfiles > 0


def produce_frame(topic, value):
    """Produce 7 with acks=all of one record: a library's batch in a frame of ours."""
    builder = DefaultRecordBatchBuilder(magic=2, compression_type=0, is_transactional=0, producer_id=-1,
                                        producer_epoch=-1, base_sequence=-1, batch_size=10000)
    builder.append(0, timestamp=1, key=None, value=value, headers=[])
    batch, name = bytes(builder.build()), topic.encode()
    body = struct.pack(">hhihhhii", 0, 7, 1, -1, -1, -1, 30000, 1) + struct.pack(">h", len(name)) + name
    body += struct.pack(">iii", 1, 0, len(batch)) + batch
    return struct.pack(">i", len(body)) + body


def answer_of(s):
    def receive(n):
        got = b""
        while len(got) < n:
            more = s.recv(n - len(got))
            assert more, "the server closed the connection"
            got += more
        return got
    return receive(struct.unpack(">i", receive(4))[0])


@test
def many_producers_share_their_syncs(folder):
    """64 producers, one message in flight each: far fewer syncs than messages."""
    producers, rounds = 64, 20
    trace, server = traced(folder, "-s", "100", "-e", "trace=fdatasync,fsync")
    with server:
        run("topic", "create", "shared", "--server", server.kafka)
        with contextlib.ExitStack() as stack:
            sockets = [stack.enter_context(socket.create_connection(("127.0.0.1", server.port), 60)) for _ in range(producers)]
            for n in range(rounds):
                for s in sockets:
                    s.sendall(produce_frame("shared", b"%d" % n))
                for s in sockets:
                    answer = answer_of(s)
                    assert struct.unpack(">h", answer[4 + 4 + 2 + len("shared") + 4 + 4:][:2]) == (0,), answer
        assert server.metrics()["holdfast_log_appended_bytes_total"] > 0
    syncs = sum(name in ("fdatasync", "fsync") for name, _ in calls(trace))
    assert 0 < syncs < producers * rounds / 4, syncs


@test
def a_failed_sync_ends_the_process_with_a_clear_line(folder):
    _, server = traced(folder, "-e", "trace=fdatasync,fsync", "-e", "inject=fdatasync,fsync:error=EIO:when=100+")
    with server:
        producer = KafkaProducer(bootstrap_servers=server.kafka, acks="all", linger_ms=0, retries=0)
        answered = 0
        try:
            for i in range(200):
                producer.send("t", value=b"x").get(60)
                answered += 1
        except Exception:
            pass
        until(lambda: not server.alive(), "the end")
        assert 0 < answered < 200, answered
        producer.close(timeout=1)
        status = server.stop()
        assert status == 1, status
    assert "stopped:" in server.log(), server.log()[-500:]
    server.wrapper = []
    with server:
        consumer = KafkaConsumer(bootstrap_servers=server.kafka, consumer_timeout_ms=30000)
        consumer.assign([TopicPartition("t", 0)])
        consumer.seek_to_beginning()
        assert sum(1 for _ in zip(range(answered), consumer)) == answered
        consumer.close()


sys.exit(run_tests(sys.argv[2:], contextlib.nullcontext))

#!/usr/bin/python3
"""Runs the console blocks of README.md and docs/, each page against a server of its own, and compares what they print:

    run.py REPOSITORY BUILD [PAGE…]

A line "$ command" is run by bash; the lines below it are what it must print, "…" standing for anything. The README's
ports become free ones, build/holdfast the binary that is tested. A command that prints too little is run again until a
deadline, if it only looks (list, count, kcat -C); one under `timeout` gets as long as it needs, and is then ended as `timeout`
would; the server's own line starts the server. And looks whether the files, metrics and headers that pages name are there."""
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from holdfast import Holdfast  # noqa: E402


def blocks(text):
    """(command, expected lines) in order."""
    found = []
    for block in re.findall(r"```console\n(.*?)```", text, re.S):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            else:
                found[-1][1].append(line)
    return found


def matches(expected, printed):
    pattern = "\n".join(".*".join(re.escape(part) for part in line.split("…")) for line in expected)
    return re.fullmatch(pattern, printed.strip("\n"), re.S) is not None


def run_until_printed(command, expected, folder, environment, deadline_s=60):
    """bash replaces itself by a single command, so the signal reaches `timeout`, which hands it on."""
    command = re.sub(r"(timeout .*?)\b\d+ ", rf"\g<1>{deadline_s} ", command, count=1)
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(["bash", "-c", command], cwd=folder, env=environment, stdout=subprocess.PIPE,
                                   stderr=errors, text=True)
        printed = ""
        while not matches(expected, printed) and (line := process.stdout.readline()):
            printed += line
        process.send_signal(signal.SIGTERM)
        printed += process.stdout.read()
        status = process.wait(30)
        errors.seek(0)
        return subprocess.CompletedProcess(command, status, printed, errors.read())


def run(command, expected, folder, environment, deadline_s=30):
    if "timeout " in command:
        done = run_until_printed(command, expected, folder, environment)
        return done.returncode == 0 and matches(expected, done.stdout), done
    looks = re.search(r"\blist\b|\bshow\b|\bcount\b|kcat -C", command)
    until = time.monotonic() + deadline_s
    while True:
        done = subprocess.run(["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, timeout=60)
        good = done.returncode == 0 and matches(expected, done.stdout)
        if good or not looks or time.monotonic() > until:
            return good, done


# And how many commands are there at least.
PAGES = {"README.md": 10, "docs/delay.md": 8, "docs/worker.md": 5, "docs/transactions.md": 9}


def wrong_names(repository, build, server):
    """What the pages name and is not there: files, metrics, headers."""
    there = "".join(name + "\n" for name in server.metrics())
    with open(os.path.join(repository, "base", "names.h")) as f:
        headers = set(re.findall(r'"(hf-[a-z-]+)"', f.read()))
    wrong = []
    folders = "|".join({"build", *(d for d in os.listdir(repository) if os.path.isdir(os.path.join(repository, d)))} - {".git"})
    for page in ["README.md", "bench/README.md", *(os.path.join("docs", p) for p in os.listdir(os.path.join(repository, "docs")))]:
        with open(os.path.join(repository, page)) as f:
            text = f.read()
        files = re.findall(rf"`((?:{folders})/[\w./-]+)[` ]", text)
        wrong += [(page, p) for p in set(files) if not any(os.path.exists(os.path.join(d, p)) for d in
                                                           (repository, build, os.path.dirname(build)))]
        wrong += [(page, m) for m in set(re.findall(r"\bholdfast_[a-z_]+", text)) - {"holdfast_local"}
                  if not re.search(rf"^{m}(?:\b|_)", there, re.M)]
        wrong += [(page, h) for h in set(re.findall(r"\bhf-[a-z-]+[a-z]", text)) - headers]
    for page, name in wrong:
        print(f"WRONG  {page} names {name}, which is not there")
    return len(wrong)


def run_page(page, least, repository, binary):
    """How many were wrong."""
    folder = tempfile.mkdtemp(prefix="holdfast-readme-")
    server, wrong, ran = Holdfast(binary, folder), 0, 0
    try:
        server.start()
        for command, expected in blocks(open(os.path.join(repository, page)).read()):
            ran += 1
            if " serve " in command:
                continue
            real = command.replace("build/holdfast", binary).replace("127.0.0.1:9092", server.kafka)
            real = real.replace("127.0.0.1:8092", server.http)
            environment = dict(os.environ, HOLDFAST_SERVER=server.kafka, HOLDFAST_API=server.http)
            good, done = run(real, expected, folder, environment)
            print(("ok     " if good else "WRONG  ") + command)
            if not good:
                wrong += 1
                print(f"       expected {expected!r}\n       printed  {done.stdout!r}\n       status {done.returncode} "
                      f"stderr {done.stderr!r}")
        if page == "README.md":
            wrong += wrong_names(repository, os.path.dirname(binary), server)
        if ran < least:
            print(f"WRONG  only {ran} commands found in {page}")
            wrong += 1
        if server.stop() != 0:
            print("WRONG  the server did not stop cleanly")
            wrong += 1
    finally:
        server.stop(signal.SIGKILL)
        shutil.rmtree(folder)
    return wrong


def main():
    repository, build = (os.path.abspath(p) for p in sys.argv[1:3])
    pages = sys.argv[3:] or PAGES
    wrong = sum(run_page(page, PAGES[page], repository, os.path.join(build, "holdfast")) for page in pages)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/python3 -B
"""The reminder service in examples/ against a server that is killed meanwhile: reminders come once, in time, changed, put off,
again and again, or not at all.

    reminders.py BUILD-DIR
"""

import json
import os
import signal
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from holdfast import Holdfast  # noqa: E402
from until import until  # noqa: E402


class Service:
    def __init__(self, build, server, folder):
        self.program = os.path.join(build, "examples", "example_reminders")
        self.server, self.told = server, os.path.join(folder, "told")
        self.worker = None

    def environment(self):
        return dict(os.environ, HOLDFAST_SERVER=self.server.kafka, HOLDFAST_API=self.server.http)

    def __call__(self, *words):
        run = subprocess.run([self.program, *words], capture_output=True, text=True, timeout=90, env=self.environment())
        assert run.returncode == 0, (words, run.stderr)
        return run.stdout.strip()

    def start(self):
        with open(self.told, "a") as out:
            self.worker = subprocess.Popen([self.program, "run"], stdout=out, env=self.environment())

    def stop(self):
        self.worker.send_signal(signal.SIGTERM)
        status = self.worker.wait(90)
        self.worker = None
        assert status == 0, f"the worker ended with {status}"

    def lines(self):
        with open(self.told) as f:
            return f.read().splitlines()


def pending(server):
    run = subprocess.run([server.binary, "schedule", "list", "--topic", "reminders", "--json", "--api", server.http],
                         capture_output=True, text=True, timeout=60)
    return {row["id"]: row for row in map(json.loads, run.stdout.splitlines())}


def play(service, server):
    assert service("once", "ada", "dentist", "3600000", "the dentist") == "scheduled"
    assert service("once", "ada", "dentist", "1000", "the dentist, at three") == "replaced"
    assert service("once", "ada", "mistake", "3600000", "nothing") == "scheduled"
    assert service("forget", "ada", "mistake") == "cancelled"
    service("every", "ada", "standup", "0 9 * * MON-FRI", "Europe/Berlin", "stand-up")
    service("every", "bob", "backup", "@daily", "UTC", "the backup")
    until(lambda: {"ada/standup", "bob/backup"} <= set(pending(server)), "all pend")
    server.stop(signal.SIGKILL)
    server.start()
    service.start()
    until(lambda: service.lines() == ["ada: the dentist, at three"], "told once")
    at_nine = pending(server)["ada/standup"]["due"]
    assert service("snooze", "ada", "standup", "300") == "moved"
    until(lambda: len(service.lines()) == 2, "told again")
    until(lambda: "ada/standup" in pending(server), "the series goes on")
    assert pending(server)["ada/standup"]["due"] == at_nine, "a snoozed run does not move the others"
    assert service("forget", "ada") == "cancelled 1"
    assert set(pending(server)) == {"bob/backup"}, pending(server)
    assert service("forget", "bob") == "cancelled 1"
    assert service.lines() == ["ada: the dentist, at three", "ada: stand-up"], service.lines()


def main():
    build = os.path.abspath(sys.argv[1])
    with tempfile.TemporaryDirectory(prefix="holdfast-reminders-") as folder:
        server = Holdfast(os.path.join(build, "holdfast"), folder)
        server.start()
        server.listen = server.kafka
        service = Service(build, server, folder)
        try:
            play(service, server)
            service.stop()
            assert server.stop() == 0
        finally:
            if service.worker:
                service.worker.kill()
                service.worker.wait()
            if server.process:
                server.stop(signal.SIGKILL)
    print("ok")


if __name__ == "__main__":
    main()

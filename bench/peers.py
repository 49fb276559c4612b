"""What the comparisons share: which versions run, what their loopback uses, jars by Maven, a process's CPU and memory, the floor
program, the load."""
import os
import re
import shutil
import socket
import subprocess
import tempfile

top = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
HOLDFAST = os.path.join(top, "build", "holdfast")
BENCH = os.path.join(top, "build", "bench")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def said_by(*command):
    """The first line that a program prints of itself."""
    run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return run.stdout.strip().split("\n")[0]


def version(program):
    """Of an installed program, or None."""
    if not shutil.which(program):
        return None
    line = said_by(program, "-v") if program == "beanstalkd" else said_by(program, "-version" if program == "java" else "--version")
    return line.replace("Redis server v=", "Redis ").split(" sha=")[0]


def version_in(classpath, jar):
    """Of a jar, by its name in a class path."""
    found = re.search(rf"/{jar}-([0-9][^/:]*)\.jar", classpath)
    return found.group(1) if found else "of unknown version"


def jars_by_maven(pom):
    """The class path of what bench/POM names, or the reason why there is none."""
    if not shutil.which("java") or not shutil.which("mvn"):
        return None, "no Java or no Maven"
    with tempfile.NamedTemporaryFile("r") as f:
        run = subprocess.run(["mvn", "-q", "-B", "-f", os.path.join(top, "bench", pom), "dependency:build-classpath",
                              f"-Dmdep.outputFile={f.name}"], capture_output=True, text=True)
        classpath = f.read().strip()
    return (classpath, None) if classpath else (None, f"Maven: {run.stdout[-300:]}")


def congestion():
    """What the kernel gives to both ends of a loopback connection that do not ask."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        with socket.create_connection(listener.getsockname()) as one, listener.accept()[0] as other:
            names = {s.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0").decode() for s in (one, other)}
            return "/".join(sorted(names))


def machine():
    with open("/proc/cpuinfo") as f:
        model = re.search(r"model name\s*: (.*)", f.read())
    return (f"{os.cpu_count()} CPUs ({model.group(1) if model else 'unknown'}), Linux {os.uname().release}, load "
            f"{os.getloadavg()[0]:.1f}, loopback TCP: {congestion()}")


def cpu_s(pid):
    with open(f"/proc/{pid}/stat") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_mb(pid, what):
    with open(f"/proc/{pid}/status") as f:
        return int(re.search(rf"^{what}:\s+(\d+)", f.read(), re.M).group(1)) / 1024


class Floor:
    """bench/floor in one of its modes, on a file of 256 MiB in a folder of its own, written as a log's is: batch by batch, here of
    64 messages of 1 KiB. What is written 1 MiB at a time lies in larger pages of the page cache, which are cheaper to send."""
    name = "floor"
    BATCH, FILE = 66173, 256 << 20

    def __init__(self, folder, mode, *words):
        os.makedirs(folder)
        path = os.path.join(folder, "file")
        with open(path, "wb", buffering=0) as f:
            while f.tell() < self.FILE:
                f.write(b"x" * self.BATCH)
        self.process = subprocess.Popen([os.path.join(BENCH, "bench_floor"), mode, path, *words], stdout=subprocess.PIPE, text=True)
        self.port = int(re.search(r"port=(\d+)", self.process.stdout.readline()).group(1))
        self.pid = self.process.pid

    def stop(self):
        self.process.terminate()
        self.process.wait()
        self.process.stdout.close()


def load(server, arguments, topic, seconds, *more):
    """bench/load's line about a server that has a name, a port and a pid."""
    floor = ["--floor"] if isinstance(server, Floor) else []
    run = subprocess.run([os.path.join(BENCH, "bench_load"), *arguments, *floor, "--port", str(server.port), "--pid",
                          str(server.pid), "--topic", topic, "--seconds", str(seconds), *more], capture_output=True, text=True)
    if run.returncode:
        raise RuntimeError(f"{topic}: {run.stderr.strip()}")
    return run.stdout.strip()


def figures(line):
    return {k: float(v) for k, v in re.findall(r"(\w+)=([0-9.]+)", line)}


def moved(holdfast):
    """What the log did since its start: {checkpoints, rolls, syncs}."""
    m = holdfast.metrics()
    return {what: int(m[f"holdfast_{name}_total"]) for what, name in
            (("checkpoints", "checkpoints"), ("rolls", "segment_rolls"), ("syncs", "journal_syncs"))}

#!/usr/bin/python3 -B
"""What pages list is all there is: docs/dependencies.md each package that scripts/deps installs, bench/README.md each program of
bench/.

    lists.py REPOSITORY"""
import glob
import os
import re
import sys

TOP = sys.argv[1]


def text(path):
    with open(os.path.join(TOP, path)) as f:
        return f.read()


def absent(words, page):
    said = set(re.findall(r"[A-Za-z0-9.+_/-]+", text(page)))
    said |= {os.path.basename(word) for word in said}
    return [f"{page} does not name {word}" for word in sorted(words) if word not in said]


def main():
    lists = dict(re.findall(r'^(build|demo|test)="([^"]*)"', text("scripts/deps"), re.M))
    assert lists.keys() == {"build", "demo", "test"}, "scripts/deps has other lists"
    packages = {word for words in lists.values() for word in words.split() if not word.startswith("$")}
    programs = {f"bench/{os.path.basename(path)}" for path in glob.glob(os.path.join(TOP, "bench", "*"))
                if os.path.isfile(path) and os.access(path, os.X_OK)}
    programs |= set(re.findall(r"add_executable\((\w+)", text("bench/CMakeLists.txt")))
    assert len(packages) > 20 and len(programs) > 10, (packages, programs)
    sys.exit("\n".join(absent(packages, "docs/dependencies.md") + absent(programs, "bench/README.md")) or 0)


if __name__ == "__main__":
    main()

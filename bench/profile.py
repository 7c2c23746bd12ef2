#!/usr/bin/env python3
"""Where the proxies of one path spend their time: perf's samples of one scenario, by function.

  profile.py h2 --peer ./tombolo.json
  profile.py bulk2hop --callers memmove      who calls it; needs -C force-frame-pointers=yes

perf finds no symbol in a program whose segments lie elsewhere in its file than in memory, so that is done here.
"""
import argparse
import bisect
import collections
import os
import re
import subprocess
import time

import meshbench
import meshlib as lib
from meshlib import run


class Symbols:
    """The functions of a program, by their place in its file."""

    def __init__(self, program):
        segments = [line.split() for line in run(["readelf", "-lW", program], 30).splitlines() if " LOAD " in line]
        self.segments = [(int(s[1], 16), int(s[2], 16), int(s[4], 16)) for s in segments]
        lines = (line.split(" ", 2) for line in run(["nm", "-C", "-n", program], 60).splitlines())
        self.functions = [(int(v[0], 16), v[2]) for v in lines if len(v) == 3 and v[0] and v[1] in "tTwW"]
        self.starts = [start for start, _ in self.functions]

    def at(self, offset):
        for file, memory, size in self.segments:
            if file <= offset < file + size:
                found = bisect.bisect_right(self.starts, offset - file + memory) - 1
                if found >= 0:
                    return re.sub(r"::h[0-9a-f]{16}$", "", self.functions[found][1])
        return "[unknown]"


def record(a, data):
    """Runs the scenario once with perf on its proxies, and returns the program that A runs."""
    path, mode, sink, sets = meshbench.SCENARIOS[a.scenario]
    with meshbench.Stack(a, a.peer, path, mode, sink) as stack:
        if not sink and a.scenario not in meshbench.NO_WARM:
            stack.warm()
        proxies = [p.pid for name, p in stack.procs.items() if name in "AGB"]
        perf = ["perf", "record", "-q", "-g", "-e", "cpu-clock", "-F", "4999", "-o", data, "-p", ",".join(map(str, proxies))]
        perf = subprocess.Popen(perf, stderr=subprocess.DEVNULL)
        time.sleep(0.5)
        label, measure = sets[0]
        found = measure(stack, a)
        perf.send_signal(2)
        perf.wait(30)
        print(label, {k: round(v, 3) for k, v in found.items() if k.endswith("_proxies") or k.startswith("sys_share")})
        return os.path.realpath(f"/proc/{proxies[-1]}/exe")


def stacks(data, symbols):
    """The functions of each sample, innermost first."""
    stack = []
    for line in run(["perf", "script", "-i", data, "-F", "ip,sym"], 120).splitlines() + [""]:
        found = line.split(None, 1)
        if not found:
            if stack:
                yield stack
            stack = []
            continue
        name = found[1] if len(found) > 1 else "[unknown]"
        stack.append(symbols.at(int(found[0], 16)) if name == "[unknown]" else name)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("scenario", choices=[s for s in meshbench.SCENARIOS if not s.startswith(("rss", "big"))])
    p.add_argument("--peer", default=os.path.join(lib.HERE, "tombolo.json"))
    p.add_argument("--callers", default="", help="a part of a function's name: tells who calls it")
    p.add_argument("--top", type=int, default=40)
    meshbench.common(p)
    a = p.parse_args()
    lib.prioritize(a.nice)
    lib.make_certs(a.certs)
    data = os.path.join(a.workdir, f"profile-{os.getpid()}")
    try:
        samples = list(stacks(data, Symbols(record(a, data))))
    finally:
        subprocess.run(["rm", "-f", data])
    if a.callers:
        counted = collections.Counter(" <- ".join(s[:4]) for s in samples if a.callers in s[0])
    else:
        counted = collections.Counter(s[0] for s in samples)
    for name, count in counted.most_common(a.top):
        print(f"{100 * count / len(samples):5.2f} % {name[:200]}")


if __name__ == "__main__":
    main()

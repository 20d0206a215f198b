"""Time and memory of `gonogo judge` on large records: python3 benches/big_record.py [RUNS [NODES]]

Without NODES 10,000 nodes x 50 cases x 2 metrics (261 MB): the header is that of a measured record, the readings are made. With NODES the whole of a
measured record, machines and facts and all, as if so many nodes had measured the same (55 MB a thousand). $GONOGO is the binary, else
target/release/gonogo; the records lie under $TMPDIR.
"""

import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
GONOGO = os.environ.get("GONOGO", os.path.join(HERE, "../target/release/gonogo"))
MEASURED = os.path.join(HERE, "../tests/fixtures/records/h100-sxm-vm.jsonl")
NODES, CASES = 10_000, 50


def series(rng, metric, unit, better, value):
    samples = [float(f"{value * (1 + 0.02 * rng.gauss(0, 1)):.6e}") for _ in range(8)]
    return {"metric": metric, "unit": unit, "better": better, "block": 16, "samples": samples}


def write(path):
    with open(MEASURED) as measured:
        header = json.loads(measured.readline())["header"]
    header["nodes"] = [f"node{i:05}" for i in range(NODES)]
    cases = [f"loopback {i} stream" + ("s" if i != 1 else "") for i in range(CASES)]
    step = {"name": "tcp", "probe": "tcp", "ranks": 1, "cases": cases, "args": None, "seed": 1, "estimate_ms": 1500, "attempt": 1}
    rng = random.Random(1)
    with open(path, "w") as out:
        for line in ({"header": header}, {"steps": [step]}):
            out.write(json.dumps(line) + "\n")
        for node in header["nodes"]:
            for case in cases:
                both = [series(rng, "bandwidth", "byte_per_second", "higher", 4e9), series(rng, "rtt_p50", "second", "lower", 2e-5)]
                outcome = {"measured": {"series": both, "checks": []}}
                line = {"node": node, "step": "tcp", "probe": "tcp", "case": case, "attempt": 1, "outcome": outcome}
                out.write(json.dumps({"outcome": line}, separators=(",", ":")) + "\n")
        out.write(json.dumps({"end": {"ended": "2026-11-26T10:00:00Z", "interrupted": False}}) + "\n")


def repeat(path, nodes):
    with open(MEASURED) as measured:
        lines = [json.loads(line) for line in measured]
    names = [f"node{i:05}" for i in range(nodes)]
    with open(path, "w") as out:
        for line in lines:
            if "header" in line:
                line["header"]["nodes"] = names
            of_node = line.get("outcome")
            for name in names if of_node else [None]:
                if of_node:
                    of_node["node"] = name
                out.write(json.dumps(line, separators=(",", ":")) + "\n")


def main():
    with tempfile.TemporaryDirectory() as folder:
        record = os.path.join(folder, "record.jsonl")
        repeat(record, int(sys.argv[2])) if len(sys.argv) > 2 else write(record)
        for _ in range(int(sys.argv[1]) if len(sys.argv) > 1 else 3):
            start = time.time()
            ended = subprocess.run([GONOGO, "judge", record], stdout=subprocess.DEVNULL, check=False).returncode
            if ended > 2:
                sys.exit(f"gonogo judge ended with {ended}")
            # Of all runs so far the largest: they do the same.
            peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
            print(f"{time.time() - start:.2f} s, {peak:.0f} MiB")


main()

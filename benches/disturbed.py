"""Eight nodes of the Slurm lab, healthy and with a slow link, while somebody else takes the cores that all share.

    python3 benches/disturbed.py ROUNDS GONOGO [GONOGO-BEFORE]     (root, tests/labs/slurm-lab install)

Up to three processes that compute come and go on the machine, at random, seeded. Each round checks once with each binary, and every
record is judged by each: who is named that is innocent, who is held, and whether the slow link is found.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
import threading

HERE = os.path.dirname(os.path.abspath(__file__))
LAB = os.path.join(HERE, "../tests/labs/slurm-lab")
TOKEN = "0f1e5a3c9b7d2846e1c0a9f83b6d5247"
BURN = [sys.executable, "-c", "while True: pass"]


def others(stop):
    """Processes that compute, up to three at a time, for one to three seconds each time."""
    rng = random.Random(1)
    while not stop.is_set():
        burning = [subprocess.Popen(BURN) for _ in range(rng.randrange(4))]
        stop.wait(rng.uniform(1, 3))
        for b in burning:
            b.kill()
            b.wait()


def named(gonogo, record, severity):
    """Nodes with a finding of that severity."""
    out = subprocess.run([gonogo, "report", record, "--format", "json"], capture_output=True, text=True, check=False).stdout
    of = [f["subject"] for f in json.loads(out)["findings"] if f["severity"] == severity]
    return {s.get("node", str(s)) if isinstance(s, dict) else s for s in of}


def main():
    rounds, binaries = int(sys.argv[1]), [os.path.abspath(b) for b in sys.argv[2:4]]
    subprocess.run([LAB, "up", "-n", "8"], check=True, stderr=subprocess.DEVNULL)
    stop = threading.Event()
    threading.Thread(target=others, args=(stop,), daemon=True).start()
    try:
        with tempfile.TemporaryDirectory() as folder:
            for scene, guilty in (("healthy", set()), ("node3 at 14 Gbit/s", {"node3"})):
                if guilty:
                    subprocess.run([LAB, "degrade", "node3", "--rate", "14gbit"], check=True)
                records = []
                for _ in range(rounds):
                    for binary in binaries:
                        record = os.path.join(folder, f"{'slow' if guilty else 'well'}-{len(records)}")
                        check = [binary, "check", "--quiet", "--only", "environment,tcp", "--out", record]
                        subprocess.run(
                            [LAB, "srun", "--no-kill", "-N8", "--ntasks-per-node=1", *check],
                            env={**os.environ, "GONOGO_TOKEN": TOKEN}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False,
                        )
                        records.append(record)
                for binary in binaries:
                    fails = [named(binary, r, "fail") for r in records]
                    holds = [named(binary, r, "hold") for r in records]
                    wrong = sum(bool(f - guilty) for f in fails)
                    found = sum(guilty <= f for f in fails)
                    held = sum(bool(h) and not f for f, h in zip(fails, holds))
                    print(f"{scene}, judged by {binary}: {len(records)} checks, an innocent failed in {wrong}, "
                          f"held {held}, " + (f"found {found}" if guilty else f"clear {len(records) - wrong - held}"), flush=True)
    finally:
        stop.set()
        subprocess.run([LAB, "down"], check=False)


main()

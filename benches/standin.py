#!/usr/bin/env python3
"""How long a check of a GPU node takes, step by step, against the stand-in (tests/labs/fake-gpu): where the driver, the libraries and
the GPUs take the time that they take on such a machine. It measures the schedule, not a GPU.

    benches/standin.py [GONOGO] [MACHINE:TIER ...]      target/release/gonogo; h100:quick hgx-h100:quick h100:standard hgx-h100:standard

Exit code: 0 when every check ended within its target, with nothing cut and no wrong verdict on the node's GPUs."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
ENTER = HERE / "tests/labs/fake-gpu/enter"
# Seconds from start to verdict, without a budget given.
TARGETS = {("h100", "quick"): 20, ("hgx-h100", "quick"): 30, ("h100", "standard"): 90, ("hgx-h100", "standard"): 120}


def check(gonogo: Path, machine: str, tier: str) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "r/record.jsonl"
        begin = time.monotonic()
        # To a file: nobody reads a pipe meanwhile.
        told = open(Path(folder) / "report.json", "w+")
        run = subprocess.Popen(
            [ENTER, machine, "--", gonogo, "check", "--alone", "--quiet", "--tier", tier, "--path", folder,
             "--out", record.parent, "--format", "json"], stdout=told, stderr=subprocess.DEVNULL)
        ends: dict[str, float] = {}
        seen = 0
        while True:
            over = run.poll() is not None
            lines = record.read_text().split("\n")[:-1] if record.exists() else []
            for line in lines[seen:]:
                outcome = json.loads(line).get("outcome")
                if outcome:
                    again = "" if outcome["attempt"] == 1 else " again"
                    ends[outcome["step"] + again] = time.monotonic() - begin
            seen = len(lines)
            if over:
                break
            time.sleep(0.02)
        took = time.monotonic() - begin
        told.seek(0)
        report = json.load(told)
        before = 0.0
        for step, end in ends.items():
            print(f"  {step:<24} {end - before:6.2f} s")
            before = end
        target = TARGETS.get((machine, tier))
        cut = report["coverage"]["cut_for_time"]
        word = ["GO", "NO-GO", "HOLD"][run.returncode] if run.returncode < 3 else f"exit {run.returncode}"
        print(f"{machine} {tier}: {took:.1f} s of {target} s, {word}, {cut} cases cut\n", flush=True)
        return (target is None or took <= target) and cut == 0 and run.returncode == 0


def main() -> int:
    arguments = sys.argv[1:]
    gonogo = Path(arguments.pop(0) if arguments and ":" not in arguments[0] else HERE / "target/release/gonogo").resolve()
    wanted = [tuple(a.split(":")) for a in arguments] or list(TARGETS)
    return 0 if all([check(gonogo, *one) for one in wanted]) else 1


if __name__ == "__main__":
    sys.exit(main())

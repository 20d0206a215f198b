#!/usr/bin/env python3
"""Holds gonogo's rdma probe between two nodes against perftest, in the two machines of tests/labs/rdma-lab: the same wire,
the same message sizes, one queue pair. The sides alternate; the table is compare.py's. Soft-RoCE under emulation: the
ratios compare the programs, the rates say nothing of a network."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from compare import Comparison, Row, table

ROOT = Path(__file__).resolve().parents[2]
LAB = ROOT / "tests/labs/rdma-lab"
ROUNDS = 5
# gonogo's case, perftest's program, its size, what to compare.
CASES = [
    ("pair out rxe0", "ib_write_bw", 65536, "bandwidth"),
    ("pair read 64 KiB rxe0", "ib_read_bw", 65536, "bandwidth"),
    ("pair send 64 KiB rxe0", "ib_send_bw", 65536, "bandwidth"),
    ("pair write latency 2 B rxe0", "ib_write_lat", 2, "latency"),
    ("pair read latency 2 B rxe0", "ib_read_lat", 2, "latency"),
    ("pair write latency 4 KiB rxe0", "ib_write_lat", 4096, "latency"),
    ("pair read latency 4 KiB rxe0", "ib_read_lat", 4096, "latency"),
]

INNER = r"""
cd "$WORK"; export GONOGO_TOKEN=0123456789abcdef0123456789abcdef
r=0; while [ $r -lt "$ROUNDS" ]; do
  lab-barrier "g$r"
  "$GONOGO" check --quiet --rank $LAB_RANK --nodes 2 --rendezvous ${LAB_PEERS%%,*}:17917 --only rdma --tier standard --budget 75s --out "$WORK/g$r.$LAB_RANK" >/dev/null
  i=0
  echo "$CASES" | while read -r program size count; do
    lab-barrier "p$r.$i"
    if [ "$LAB_RANK" = 1 ]; then
      "$program" -d rxe0 -x $LAB_GID_INDEX -u 18 -s $size -n $count -F >/dev/null 2>&1
    else
      ( sleep 1; : ) ; j=0
      until "$program" -d rxe0 -x $LAB_GID_INDEX -u 18 -s $size -n $count -F ${LAB_PEERS##*,} >"$WORK/p$r.$i" 2>&1 || [ $j -gt 5 ]; do j=$((j+1)); sleep 1; done
    fi
    i=$((i+1))
  done
  r=$((r+1))
done
"""


def perftest(text: str, metric: str) -> float:
    """The last line of numbers: average bandwidth in MiB/s, or the typical latency in microseconds."""
    rows = [line.split() for line in text.splitlines() if line.strip() and line.split()[0].isdigit()]
    if not rows:
        raise ValueError("no result: " + " | ".join(text.strip().splitlines()[-3:]))
    return float(rows[-1][3]) * 2**20 if metric == "bandwidth" else float(rows[-1][4]) * 1e-6


def gonogo(record: Path) -> dict[tuple[str, str], list[float]]:
    found: dict[tuple[str, str], list[float]] = {}
    for line in record.read_text().splitlines():
        outcome = json.loads(line).get("outcome")
        for series in (outcome or {}).get("outcome", {}).get("measured", {}).get("series", []):
            found.setdefault((outcome["case"], series["metric"]), []).extend(series["samples"])
    return found


def main() -> int:
    can = subprocess.run([LAB, "check"], capture_output=True, text=True)
    if can.returncode:
        print(f"skipped: {can.stdout.strip()}")
        return 0
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    lines = [Comparison(f"{program} {size}", Row(case, metric, *(("MB/s", 1e6, 0.98) if metric == "bandwidth" else ("us", 1e-6, 1.05, True))), "perftest") for case, program, size, metric in CASES]
    with tempfile.TemporaryDirectory() as work:
        shutil.copy(ROOT / "target/release/gonogo", work)
        cases = "\n".join(f"{program} {size} {400 if metric == 'bandwidth' else 500}" for _, program, size, metric in CASES)
        env = {"WORK": work, "GONOGO": f"{work}/gonogo", "ROUNDS": str(rounds), "CASES": cases}
        command = [LAB, "run", "-n", "2", "--share", work, "--timeout", "1500", *(a for k, v in env.items() for a in ("--env", f"{k}={v}"))]
        subprocess.run([*command, "--", "sh", "-c", INNER], check=True, timeout=1600)
        for r in range(rounds):
            ours = gonogo(Path(work, f"g{r}.0", "record.jsonl"))
            for i, line in enumerate(lines):
                line.ours.append(ours[(line.row.cases, line.row.metric)])
                line.theirs.append([perftest(Path(work, f"p{r}.{i}").read_text(), line.row.metric)])
    head = ["comparison", "gonogo median", "peer median", "ratio", "by round", "others took", "target", "met"]
    print(table([head, *(line.cells() for line in lines)]))
    return 0 if all(line.row.met(line.ratio()) for line in lines) else 1


if __name__ == "__main__":
    sys.exit(main())

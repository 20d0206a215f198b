#!/usr/bin/env python3
"""Holds gonogo's GPU probes against PyTorch on GPU 0 of this machine: the same product of random normal numbers (bf16, and fp8 by
torch._scaled_mm), a copy within the device, copies from and to pinned memory, NCCL's all-gather with one rank. The sides alternate; the table shows medians over
rounds and their ratio. PyTorch times as gonogo does: events around blocks of queued work, the best of no choice (its own).
Exit code: 0 when every comparison that ran meets its target."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

ROUNDS = 3
GONOGO = sys.argv[1] if len(sys.argv) > 1 else "target/release/gonogo"


def rate(work, amount: float, block_s: float = 0.02, budget_s: float = 0.3) -> float:
    """Median of amount per second over blocks."""
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    for _ in range(3):
        work()
    begin.record(), work(), end.record()
    torch.cuda.synchronize()
    once = max(begin.elapsed_time(end) * 1e-3, 1e-6)
    each, blocks = max(1, int(block_s / once)), max(3, int(budget_s / max(block_s, once)))
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(blocks + 1)]
    marks[0].record()
    for mark in marks[1:]:
        for _ in range(each):
            work()
        mark.record()
    torch.cuda.synchronize()
    return statistics.median(amount * each / (a.elapsed_time(b) * 1e-3) for a, b in zip(marks, marks[1:]))


def peers() -> dict[str, float]:
    n, out = 8192, {}
    torch.manual_seed(1)
    a, b = (torch.randn(n, n, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    c = torch.empty(n, n, device="cuda", dtype=torch.bfloat16)
    out["bf16 8192 burst"] = rate(lambda: torch.matmul(a, b.t(), out=c), 2.0 * n**3)
    if torch.cuda.get_device_capability() >= (8, 9):
        x, y = a.to(torch.float8_e4m3fn), b.to(torch.float8_e4m3fn).t()
        one = torch.ones((), device="cuda")
        out["fp8 8192 burst"] = rate(
            lambda: torch._scaled_mm(x, y, scale_a=one, scale_b=one, out_dtype=torch.bfloat16), 2.0 * n**3)
    del a, b, c
    size = 1 << 30
    s, d = (torch.empty(size, device="cuda", dtype=torch.uint8) for _ in range(2))
    out["driver copy"] = rate(lambda: d.copy_(s), 2.0 * size)
    size = 256 << 20
    host = torch.empty(size, dtype=torch.uint8, pin_memory=True)
    device = torch.empty(size, device="cuda", dtype=torch.uint8)
    out["h2d"] = rate(lambda: device.copy_(host, non_blocking=True), size, 0.05)
    out["d2h"] = rate(lambda: host.copy_(device, non_blocking=True), size, 0.05)
    torch.cuda.empty_cache()
    out.update(collectives())
    return out


def collectives() -> dict[str, float]:
    """Operations per second of NCCL's all-gather with one rank, by torch.distributed, which loads a libnccl of its own."""
    if not torch.distributed.is_nccl_available():
        return {}
    if not torch.distributed.is_initialized():
        store = torch.distributed.TCPStore("127.0.0.1", 0, 1, True)
        torch.distributed.init_process_group("nccl", store=store, rank=0, world_size=1)
    # An all-reduce of one rank in place, the only one that torch.distributed has, does nothing; an all-gather copies.
    size = 256 << 20
    x, y = (torch.zeros(size // 4, device="cuda") for _ in range(2))
    return {"all-gather nccl node n=1 256 MiB": rate(lambda: torch.distributed.all_gather_into_tensor(y, x), 1.0)}


def gonogo() -> dict[str, float]:
    with tempfile.TemporaryDirectory() as dir:
        record = Path(dir) / "r"
        command = [GONOGO, "check", "--alone", "--quiet", "--only", "environment,gemm,memory,copy,collective", "--budget", "90s", "--out", record]
        subprocess.run(command, capture_output=True, timeout=150, check=False)
        out = {}
        for line in (record / "record.jsonl").read_text().splitlines():
            outcome = json.loads(line).get("outcome", {})
            case, measured = outcome.get("case", ""), outcome.get("outcome", {}).get("measured")
            if measured and case.startswith("all-gather nccl node n=1"):
                latency = next(s for s in measured["series"] if s["metric"] == "latency")
                out[case] = 1.0 / statistics.median(latency["samples"])
            if measured and case.endswith(" gpu0"):
                for series in measured["series"]:
                    out[case.removesuffix(" gpu0")] = statistics.median(series["samples"])
        return out


def main() -> int:
    ours, theirs = [], []
    for _ in range(ROUNDS):
        ours.append(gonogo())
        theirs.append(peers())
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, CUDA {torch.version.cuda}")
    print(f"{'comparison':<42} {'gonogo':>10} {'PyTorch':>10} {'ratio':>6}  by round        target")
    met = True
    for case in theirs[0]:
        pairs = [(o[case], t[case]) for o, t in zip(ours, theirs) if case in o and case in t]
        if not pairs:
            print(f"{case:<42} not measured by gonogo")
            met = False
            continue
        a, b = (statistics.median(x) for x in zip(*pairs))
        rounds = sorted(x / y for x, y in pairs)
        nccl = "nccl" in case
        scale, unit = (1e3, "k/s ") if nccl else (1e12, "TF/s") if "burst" in case else (1e9, "GB/s")
        target = 0.98 if nccl else 0.99
        ok = a / b >= target
        met &= ok
        print(f"{case:<42} {a / scale:>5.1f} {unit} {b / scale:>5.1f} {unit} {a / b:>6.3f}  {rounds[0]:.3f}..{rounds[-1]:.3f}  "
              f">= {target} {'yes' if ok else 'no'}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())

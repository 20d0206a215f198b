#!/usr/bin/env python3
"""Holds gonogo's GPU probes against PyTorch on GPU 0 of this machine, in one run: bf16 8192 x 8192 x 8192 of random normal numbers
(fp8 by torch._scaled_mm where the GPU has it), a copy within the device, copies from and to pinned memory, NCCL's all-gather with
one rank. The sides alternate round by round; the table shows medians over rounds and their ratio. PyTorch times as gonogo does:
events around blocks of queued work.

    gpu.py [--seconds 120] [--json FILE] [GONOGO]

Rounds follow each other as long as another fits the time, ROUNDS at most; what was measured is printed and written after each. Exit code: 0 when every comparison that ran meets its target, 1 when one does not or nothing could be
compared, 77 without PyTorch or a GPU."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

try:
    import torch
    import torch.distributed
except ImportError as e:
    print(f"skipped: no PyTorch: {e}")
    sys.exit(77)

ROUNDS = 5
# The least without which it is no comparison.
CORE = ("bf16 8192 burst", "driver copy", "h2d", "d2h")
# What the GPU cools before a product, as in gonogo's burst.
COOL_S = 0.2


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


def peers() -> tuple[dict[str, float], dict[str, str]]:
    """What PyTorch reaches, and what it could not do."""
    out, failed = {}, {}
    for measure in (products, copies, collectives):
        try:
            measure(out)
        except Exception as e:  # One that this version or GPU lacks must not take the others along.
            failed[measure.__name__] = f"{type(e).__name__}: {e}".splitlines()[0][:200]
        # gonogo's turn is next, and it needs the memory.
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
    return out, failed


def products(out: dict[str, float]) -> None:
    n = 8192
    torch.manual_seed(1)
    a, b = (torch.randn(n, n, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    c = torch.empty(n, n, device="cuda", dtype=torch.bfloat16)
    torch.cuda.synchronize()
    time.sleep(COOL_S)
    # The second matrix is transposed: both have the common dimension contiguous, as gonogo's.
    out["bf16 8192 burst"] = rate(lambda: torch.matmul(a, b.t(), out=c), 2.0 * n**3)
    if torch.cuda.get_device_capability() >= (8, 9) and hasattr(torch, "_scaled_mm"):
        x, y = a.to(torch.float8_e4m3fn), b.to(torch.float8_e4m3fn).t()
        one = torch.ones((), device="cuda")
        torch.cuda.synchronize()
        time.sleep(COOL_S)
        out["fp8 8192 burst"] = rate(
            lambda: torch._scaled_mm(x, y, scale_a=one, scale_b=one, out_dtype=torch.bfloat16), 2.0 * n**3)


def copies(out: dict[str, float]) -> None:
    size = 1 << 30
    s, d = (torch.empty(size, device="cuda", dtype=torch.uint8) for _ in range(2))
    out["driver copy"] = rate(lambda: d.copy_(s), 2.0 * size)
    size = 256 << 20
    host = torch.empty(size, dtype=torch.uint8, pin_memory=True)
    # Pages that were never written are all the same one.
    host.fill_(1)
    device = torch.empty(size, device="cuda", dtype=torch.uint8)
    out["h2d"] = rate(lambda: device.copy_(host, non_blocking=True), size, 0.05)
    out["d2h"] = rate(lambda: host.copy_(device, non_blocking=True), size, 0.05)


def collectives(out: dict[str, float]) -> None:
    """Operations per second of NCCL's all-gather with one rank, by torch.distributed, which loads a libnccl of its own."""
    if not torch.distributed.is_available() or not torch.distributed.is_nccl_available():
        return
    if not torch.distributed.is_initialized():
        store = torch.distributed.TCPStore("127.0.0.1", 0, 1, True)
        torch.distributed.init_process_group("nccl", store=store, rank=0, world_size=1)
    # An all-reduce of one rank in place, the only one that torch.distributed has, does nothing; an all-gather copies.
    size = 256 << 20
    x, y = (torch.zeros(size // 4, device="cuda") for _ in range(2))
    out["all-gather nccl node n=1 256 MiB"] = rate(lambda: torch.distributed.all_gather_into_tensor(y, x), 1.0)


def gonogo(program: str, patience_s: float) -> tuple[dict[str, float], str]:
    """What gonogo reaches, case by case, and why where that is not all."""
    with tempfile.TemporaryDirectory() as dir:
        record = Path(dir) / "r"
        command = [program, "check", "--alone", "--quiet", "--tier", "quick", "--only", "environment,gemm,memory,copy,collective"]
        command += ["--budget", f"{min(40, max(20, int(patience_s) - 10))}s", "--out", str(record)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=patience_s, check=False)
            why = f"exit code {done.returncode}: " + " ".join((done.stderr or done.stdout).split())[:200]
        except subprocess.TimeoutExpired:
            why = f"it did not end in {patience_s:.0f} s"
        except OSError as e:
            return {}, str(e)
        # What it has measured is there whatever became of it; its last line may be cut.
        samples: dict[str, list[float]] = {}
        file = record / "record.jsonl"
        for line in file.read_text().splitlines() if file.exists() else []:
            try:
                outcome = json.loads(line).get("outcome", {})
            except ValueError:
                continue
            case = outcome.get("case", "")
            measured = (outcome.get("outcome") or {}).get("measured")
            if not measured:
                continue
            for series in measured["series"]:
                if case.startswith("all-gather nccl node n=1") and series["metric"] == "latency":
                    samples.setdefault(case, []).extend(1.0 / s for s in series["samples"])
                elif case.endswith(" gpu0") and series["metric"] in ("flops", "bandwidth"):
                    samples.setdefault(case.removesuffix(" gpu0"), []).extend(series["samples"])
        return {case: statistics.median(s) for case, s in samples.items() if s}, why


def table(ours: list[dict[str, float]], theirs: list[dict[str, float]]) -> tuple[list[dict], bool]:
    """A row a comparison, and whether all that were made meet their targets."""
    rows, met = [], True
    for case in dict.fromkeys(c for t in theirs for c in t):
        pairs = [(o[case], t[case]) for o, t in zip(ours, theirs) if case in o and case in t]
        if not pairs:
            rows.append({"case": case, "ratio": None})
            met &= case not in CORE
            continue
        a, b = (statistics.median(x) for x in zip(*pairs))
        target = 0.98 if "nccl" in case else 0.99
        rounds = [x / y for x, y in pairs]
        rows.append({"case": case, "gonogo": a, "pytorch": b, "ratio": a / b, "rounds": rounds, "target": target, "met": a / b >= target})
        met &= a / b >= target
    missing = [c for c in CORE if not any(r["case"] == c for r in rows)]
    rows += [{"case": c, "ratio": None} for c in missing]
    return rows, met and not missing


def show(rows: list[dict], rounds: int) -> None:
    gpu = torch.cuda.get_device_name()
    print(f"{gpu}, PyTorch {torch.__version__}, CUDA {torch.version.cuda}, {rounds} rounds")
    print(f"{'comparison':<34} {'gonogo':>12} {'PyTorch':>12} {'ratio':>6}  by round      target")
    for r in rows:
        if r["ratio"] is None:
            print(f"{r['case']:<34} not measured on both sides")
            continue
        nccl = "nccl" in r["case"]
        scale, unit = (1e3, "k/s ") if nccl else (1e12, "TF/s") if "burst" in r["case"] else (1e9, "GB/s")
        print(f"{r['case']:<34} {r['gonogo'] / scale:>7.1f} {unit} {r['pytorch'] / scale:>7.1f} {unit} {r['ratio']:>6.3f}  "
              f"{min(r['rounds']):.3f}..{max(r['rounds']):.3f}  >= {r['target']} {'yes' if r['met'] else 'no'}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=180.0, help="for all rounds together")
    parser.add_argument("--json", type=Path, help="also write the table there, after each round")
    parser.add_argument("gonogo", nargs="?", default="target/release/gonogo")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("skipped: PyTorch sees no GPU")
        return 77
    begin, ours, theirs, met, longest = time.monotonic(), [], [], False, 0.0
    # The first call of everything builds contexts, handles and caches: not timed.
    _, failed = peers()
    for name, why in failed.items():
        print(f"PyTorch: no {name}: {why}")
    for round in range(ROUNDS):
        left = arguments.seconds - (time.monotonic() - begin)
        if round > 0 and left < longest * 1.1:
            break
        start = time.monotonic()
        # Who comes first alternates, too: the GPU is warmer for the second.
        sides = [lambda: ours.append(gonogo(arguments.gonogo, max(50.0, left / (2 if round == 0 else 1)))), lambda: theirs.append(peers()[0])]
        for side in sides if round % 2 == 0 else reversed(sides):
            side()
        longest = max(longest, time.monotonic() - start)
        measured, why = ours[-1]
        if not all(c in measured for c in CORE):
            print(f"round {round + 1}: gonogo did not measure all of it: {why}")
        rows, met = table([o for o, _ in ours], theirs)
        show(rows, len(theirs))
        if arguments.json:
            arguments.json.write_text(json.dumps({"gpu": torch.cuda.get_device_name(), "pytorch": torch.__version__, "rounds": len(theirs), "rows": rows}, indent=1))
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Holds gonogo's host probes against the tools that people use for the same job, on this machine, side by side.

  gemm       matrix product, f32          against numpy with OpenBLAS
  tcp        bandwidth over loopback      against iperf3
  allreduce  2 ranks, TCP over loopback   against Open MPI
  storage    write with fdatasync         against fio

The sides alternate (gonogo, peer, gonogo, peer, ...), so that what else the machine does hits both alike. The table
shows the median over rounds of each side, the ratio of these medians, and the range of the ratios round by round.
Exit code: 0 when every comparison that ran meets its target, 1 when one misses it or fails.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shlex
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
MIB = 1 << 20

Samples = dict[str, list[float]]
"""Samples of one round by case."""


class Failure(Exception):
    """A side of a comparison gave no answer."""


def run(command: Sequence[str | Path], timeout: float, ok: Sequence[int] = (0,), env: Mapping[str, str] | None = None) -> str:
    """Runs a command in a session of its own, so that a timeout also ends its children; returns its stdout."""
    words = [str(word) for word in command]
    environment = {**os.environ, **(env or {})}
    try:
        process = subprocess.Popen(
            words, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
    except OSError as error:
        raise Failure(f"{shlex.join(words)}\n  {error}") from error
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        raise Failure(f"{shlex.join(words)}\n  no end after {timeout:.0f} s\n{tail(stop(process))}") from None
    except BaseException:
        stop(process)
        raise
    if process.returncode not in ok:
        raise Failure(f"{shlex.join(words)}\n  exit code {process.returncode}\n{tail(err) or tail(out)}")
    return out


def stop(process: subprocess.Popen[str]) -> str:
    """Ends a process and its session's other members; returns what it said on stderr."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            return process.communicate(timeout=5)[1] or ""
        except subprocess.TimeoutExpired:
            continue
        except ProcessLookupError:
            break
    return ""


def tail(text: str, lines: int = 12) -> str:
    return "\n".join(f"  | {line}" for line in text.strip().splitlines()[-lines:])


def mean_rate(rates: Sequence[float]) -> float:
    """All bytes by all time, when each sample moved the same number of bytes: what iperf3 and fio report."""
    return statistics.harmonic_mean(rates)


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    pattern: str
    """Which of gonogo's cases."""
    metric: str
    unit: str
    scale: float
    target: float
    lower_is_better: bool = False
    centre: Callable[[Sequence[float]], float] = statistics.median
    """How the samples of one round become one number, on both sides."""

    def met(self, ratio: float) -> bool:
        return ratio <= self.target if self.lower_is_better else ratio >= self.target


@dataclass(frozen=True)
class Settings:
    gonogo: Path
    directory: Path
    scratch: Path
    """For what is built and recorded."""


class Peer:
    """A peer: what it needs, what it is, and how it answers for cases that gonogo has just measured."""

    probe: str
    rows: tuple[Row, ...]
    arguments: tuple[str, ...] = ()

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def missing(self) -> str | None:
        raise NotImplementedError

    def version(self) -> str:
        raise NotImplementedError

    def measure(self, gonogo: Samples) -> Samples:
        raise NotImplementedError


def needs(program: str, package: str) -> str | None:
    return None if shutil.which(program) else f"no `{program}` here: apt-get install {package}"


class Gemm(Peer):
    probe = "gemm"
    rows = (Row(r"f32 \d+ cores?", "flops", "GFLOP/s", 1e9, 0.97),)

    # One product each for the libraries to load and start threads, then warm up until the clock and the scheduler have
    # settled: for up to a second after its start a second thread was seen to share the first one's core.
    SCRIPT = """
import json, time
import numpy as np
n, random = 4096, np.random.default_rng(1)
a, b = (random.random((n, n), dtype=np.float32) * 2 - 1 for _ in range(2))
c = np.empty((n, n), dtype=np.float32)
begin = time.perf_counter()
while time.perf_counter() - begin < 3:
    np.matmul(a, b, out=c)
flops = []
for _ in range(10):
    start = time.perf_counter()
    np.matmul(a, b, out=c)
    flops.append(2 * n**3 / (time.perf_counter() - start))
row = a[7].astype(np.float64) @ b.astype(np.float64)
assert np.allclose(c[7], row, atol=1e-3), "wrong product"
print(json.dumps(flops))
"""

    def missing(self) -> str | None:
        return None if importlib.util.find_spec("numpy") else f"no numpy here: {sys.executable} -m pip install numpy"

    def version(self) -> str:
        script = "import numpy as n; b = n.show_config(mode='dicts')['Build Dependencies']['blas']; print('numpy', n.__version__, b['name'], b['version'])"
        return run([sys.executable, "-c", script], 60).strip()

    def measure(self, gonogo: Samples) -> Samples:
        return {case: self.product(case.split()[1]) for case in gonogo}

    def product(self, threads: str) -> list[float]:
        return json.loads(run([sys.executable, "-c", self.SCRIPT], 300, env={"OPENBLAS_NUM_THREADS": threads}))


class Tcp(Peer):
    probe = "tcp"
    rows = (Row(r"loopback [14] streams?", "bandwidth", "GB/s", 1e9, 0.95, centre=mean_rate),)

    def missing(self) -> str | None:
        return needs("iperf3", "iperf3")

    def version(self) -> str:
        return run(["iperf3", "--version"], 10).splitlines()[0]

    def measure(self, gonogo: Samples) -> Samples:
        return {case: [self.bandwidth(case.split()[1])] for case in gonogo}

    def bandwidth(self, streams: str) -> float:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        server = subprocess.Popen(
            ["iperf3", "-s", "-1", "-B", "127.0.0.1", "-p", port],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )
        try:
            # The first second is not counted: gonogo's first block is not, either.
            client = ["iperf3", "-c", "127.0.0.1", "-p", port, "-P", streams, "-O", "1", "-t", "3", "-J"]
            for _ in range(30):
                time.sleep(0.1)
                answer = json.loads(run(client, 30, ok=(0, 1)))
                if "refused" not in answer.get("error", ""):
                    break
            if "error" in answer:
                raise Failure(f"{shlex.join(client)}\n  {answer['error']}")
            return answer["end"]["sum_received"]["bits_per_second"] / 8
        finally:
            stop(server)


class AllReduce(Peer):
    probe = "collective"
    rows = (
        Row(r"all-reduce node n=2 8 B", "latency", "us", 1e-6, 1.0, lower_is_better=True),
        Row(r"all-reduce node n=2 64 MiB", "busbw", "GB/s", 1e9, 1.0),
    )

    def missing(self) -> str | None:
        return needs("mpirun", "openmpi-bin") or needs("mpicc", "libopenmpi-dev")

    def version(self) -> str:
        return run(["mpirun", "--version"], 10).splitlines()[0]

    def measure(self, gonogo: Samples) -> Samples:
        program = self.settings.scratch / "allreduce"
        if not program.exists():
            run(["mpicc", "-O2", "-o", program, HERE / "allreduce.c"], 60)
        # No shared memory: bytes between ranks go through TCP, as gonogo's do.
        transport = ["--mca", "pml", "ob1", "--mca", "btl", "tcp,self", "--mca", "btl_tcp_if_include", "lo", "--mca", "coll", "^sm"]
        seconds = json.loads(run(["mpirun", "--allow-run-as-root", "-np", "2", *transport, program], 120))
        small, large = seconds["8"], seconds[str(64 * MIB)]
        # The bus factor of an all-reduce between 2 is 1.
        return {"all-reduce node n=2 8 B": small, "all-reduce node n=2 64 MiB": [64 * MIB / s for s in large]}


class Storage(Peer):
    probe = "storage"
    rows = (Row("write", "write", "MB/s", 1e6, 0.95, centre=mean_rate),)
    BLOCK = 128

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.arguments = ("--path", str(settings.directory))

    def missing(self) -> str | None:
        return needs("fio", "fio")

    def version(self) -> str:
        return run(["fio", "--version"], 10).strip()

    def measure(self, gonogo: Samples) -> Samples:
        # fdatasync=N counts writes: 128 of 1 MiB are gonogo's block of 128 MiB. fio syncs before the write that follows
        # a block, so one write more than the blocks makes it sync the last one, too.
        writes = len(gonogo["write"]) * self.BLOCK + 1
        command = [
            "fio", "--name=write", f"--directory={self.settings.directory}", "--rw=write", "--bs=1M", f"--size={writes}M", "--ioengine=psync",
            "--direct=0", f"--fdatasync={self.BLOCK}", "--fallocate=none", "--unlink=1", "--output-format=json",
        ]  # fmt: skip
        job = json.loads(run(command, 300))["jobs"][0]
        write, sync = job["write"]["clat_ns"], job["sync"]["lat_ns"]
        if (write["N"], sync["N"]) != (writes, writes // self.BLOCK):
            raise Failure(f"{shlex.join(command)}\n  {write['N']} writes and {sync['N']} syncs, not {writes} and {writes // self.BLOCK}")
        # What gonogo's clock sees, too: the calls. fio's own bandwidth also counts the time in which it makes its data
        # (a quarter of it with --refill_buffers), which would flatter gonogo.
        return {"write": [writes * MIB * 1e9 / (write["mean"] * write["N"] + sync["mean"] * sync["N"])]}


PEERS: dict[str, type[Peer]] = {"gemm": Gemm, "tcp": Tcp, "allreduce": AllReduce, "storage": Storage}


def gonogo(peer: Peer, settings: Settings) -> Samples:
    """gonogo's samples of the cases that the peer's rows name; a case measured twice has the samples of both."""
    with tempfile.TemporaryDirectory(dir=settings.scratch) as out:
        record = Path(out, "record")
        command = [settings.gonogo, "check", "--tier", "standard", "--only", peer.probe, *peer.arguments]
        command += ["--budget", "120s", "--quiet", "--format", "json", "--out", record]
        # 0, 1 and 2 are verdicts: go, no-go, hold.
        run(command, 300, ok=(0, 1, 2))
        path = record / "record.jsonl"
        if not path.is_file():
            raise Failure(f"{shlex.join(map(str, command))}\n  wrote no record.jsonl")
        lines = [json.loads(line) for line in path.read_text().splitlines()]
    found: Samples = {}
    unmeasured: dict[str, object] = {}
    for line in lines:
        row = next((r for r in peer.rows if re.fullmatch(r.pattern, line.get("case", ""))), None)
        if line.get("kind") != "outcome" or line.get("probe") != peer.probe or row is None:
            continue
        series = line["outcome"].get("measured", {}).get("series", []) if isinstance(line["outcome"], dict) else []
        samples = [s for one in series if one["metric"] == row.metric for s in one["samples"]]
        if samples:
            found.setdefault(line["case"], []).extend(samples)
        else:
            unmeasured[line["case"]] = line["outcome"]
    for row in peer.rows:
        if not any(re.fullmatch(row.pattern, case) for case in found):
            raise Failure(f"{shlex.join(map(str, command))}\n  no {row.metric} of `{row.pattern}` in the record: {unmeasured or 'no such case'}")
    return found


@dataclass
class Comparison:
    """What was measured for one row, or why it was not."""

    name: str
    row: Row | None = None
    peer: str = ""
    problem: str = ""
    rounds: list[tuple[list[float], list[float]]] = field(default_factory=list)

    def cells(self) -> list[str]:
        if self.row is None:
            return [self.name, self.problem]
        ours, theirs = self.centres()
        ratio, sign = self.ratio(), "<=" if self.row.lower_is_better else ">="
        each = [a / b for a, b in zip(ours, theirs)]
        values = [f"{statistics.median(side) / self.row.scale:.4g} {self.row.unit}" for side in (ours, theirs)]
        verdict = "yes" if self.row.met(ratio) else "no"
        return [self.name, *values, f"{ratio:.3f}", f"{min(each):.2f}..{max(each):.2f}", f"{sign} {self.row.target:.2f}", verdict]

    def centres(self) -> tuple[list[float], list[float]]:
        assert self.row is not None
        return [self.row.centre(a) for a, _ in self.rounds], [self.row.centre(b) for _, b in self.rounds]

    def ratio(self) -> float:
        ours, theirs = self.centres()
        return statistics.median(ours) / statistics.median(theirs)

    def good(self) -> bool:
        return self.row.met(self.ratio()) if self.row else self.problem.startswith("skipped")

    def raw(self) -> dict[str, object]:
        if self.row is None:
            return {"comparison": self.name, "problem": self.problem}
        sides = {side: [r[i] for r in self.rounds] for i, side in enumerate(("gonogo", "peer"))}
        about = {"metric": self.row.metric, "target": self.row.target, "lower_is_better": self.row.lower_is_better, "with": self.peer}
        return {"comparison": self.name, **about, "ratio": self.ratio(), **sides}


def compare(name: str, peer: Peer, settings: Settings, rounds: int) -> list[Comparison]:
    """All rows of one peer."""
    if why := peer.missing():
        return [Comparison(name, problem=f"skipped: {why}")]
    rows: dict[str, Comparison] = {}
    try:
        version = peer.version()
        for number in range(1, rounds + 1):
            print(f"{name}: round {number} of {rounds}", file=sys.stderr)
            # What the side before left to be written is not this one's work.
            os.sync()
            ours = gonogo(peer, settings)
            os.sync()
            theirs = peer.measure(ours)
            for case, samples in ours.items():
                row = next(r for r in peer.rows if re.fullmatch(r.pattern, case))
                rows.setdefault(case, Comparison(f"{name}: {case}", row, version)).rounds.append((samples, theirs[case]))
    except Failure as failure:
        print(f"{name}: {failure}", file=sys.stderr)
        return [Comparison(name, problem="failed: see above")]
    return list(rows.values())


def table(comparisons: Sequence[Comparison]) -> str:
    head = ["comparison", "gonogo median", "peer median", "ratio", "by round", "target", "met"]
    lines = [head, *(c.cells() for c in comparisons)]
    widths = [max(len(line[i]) for line in lines if len(line) == len(head) or i == 0) for i in range(len(head))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gonogo", type=Path, default=Path("target/release/gonogo"), metavar="PATH", help="the binary (default: %(default)s)")
    parser.add_argument("--only", action="append", choices=list(PEERS), help="compare only this; may be given more than once")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="times that each side runs (default: %(default)s)")
    parser.add_argument("--dir", type=Path, metavar="DIR", help="where storage writes (default: a new directory under the current one)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples to FILE")
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error("--rounds must be 1 or more")
    binary = shutil.which(args.gonogo)
    if binary is None:
        parser.error(f"{args.gonogo} is no program: build it (cargo build --release) or name it with --gonogo")
    if args.dir and not args.dir.is_dir():
        parser.error(f"{args.dir} is no directory")

    comparisons: list[Comparison] = []
    with tempfile.TemporaryDirectory(prefix="peers-") as scratch, tempfile.TemporaryDirectory(prefix="peers-", dir=args.dir or Path.cwd()) as data:
        settings = Settings(Path(binary).resolve(), Path(data).resolve(), Path(scratch))
        for name in args.only or PEERS:
            comparisons += compare(name, PEERS[name](settings), settings, args.rounds)
    print(table(comparisons))
    print("\npeers: " + ", ".join(dict.fromkeys(c.peer for c in comparisons if c.peer)))
    if args.json:
        args.json.write_text(json.dumps([c.raw() for c in comparisons], indent=1) + "\n")
    return 0 if all(c.good() for c in comparisons) else 1


if __name__ == "__main__":
    sys.exit(main())

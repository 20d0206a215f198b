#!/usr/bin/env python3
"""Holds gonogo's host probes against the tools that people use for the same job, on this machine, side by side.

  gemm       matrix product, f32          against numpy with OpenBLAS
  tcp        bandwidth over loopback      against iperf3
  allreduce  2 ranks, TCP over loopback   against Open MPI
  storage    write with fdatasync         against fio

The sides alternate (gonogo, peer, gonogo, peer, ...), so that what else the machine does hits both alike. The table
shows the median over rounds of each side, the ratio of these medians, the range of the ratios round by round, and how
much of the machine other processes took meanwhile. A busy machine makes a ratio that says little: it hits a peer that
spins, or that splits its work evenly, harder than one that does not.
Exit code: 0 when every comparison that ran meets its target, 1 when one misses it or fails.
"""

from __future__ import annotations

import argparse
import contextlib
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
from typing import Any

MIB = 1 << 20
ALLREDUCE_SOURCE = Path(__file__).resolve().with_name("allreduce.c")

Samples = dict[str, list[float]]
"""Samples of one round by gonogo's name of the case."""


class Failure(Exception):
    """A side of a comparison gave no answer: the command, and why."""

    def __init__(self, command: Sequence[str | Path], why: str, said: str = "") -> None:
        lines = said.strip().splitlines()[-12:]
        super().__init__("\n".join([shlex.join(map(str, command)), f"  {why}", *(f"  | {line}" for line in lines)]))


def start(command: Sequence[str | Path], env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """Starts a command in a session of its own, so that its children can be ended with it."""
    pipe, nothing, environment = subprocess.PIPE, subprocess.DEVNULL, {**os.environ, **(env or {})}
    try:
        return subprocess.Popen(command, env=environment, stdin=nothing, stdout=pipe, stderr=pipe, text=True, start_new_session=True)
    except OSError as error:
        raise Failure(command, str(error)) from error


def run(command: Sequence[str | Path], timeout: float, ok: Sequence[int] = (0,), env: Mapping[str, str] | None = None) -> str:
    """Runs a command to its end; returns its stdout."""
    process = start(command, env)
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        raise Failure(command, f"no end after {timeout:.0f} s", stop(process)) from None
    except BaseException:
        stop(process)
        raise
    if process.returncode not in ok:
        raise Failure(command, f"exit code {process.returncode}", err.strip() or out)
    return out


def run_json(command: Sequence[str | Path], timeout: float, ok: Sequence[int] = (0,), env: Mapping[str, str] | None = None) -> Any:
    out = run(command, timeout, ok, env)
    try:
        return json.loads(out)
    except ValueError as error:
        raise Failure(command, f"printed no JSON: {error}", out) from error


def stop(process: subprocess.Popen[str]) -> str:
    """Ends a process and its session's other members; returns what it said on stderr."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(process.pid, number)
            return process.communicate(timeout=5)[1]
    return ""


@dataclass(frozen=True)
class Row:
    """One line of the table, or one for each of gonogo's cases that match."""

    cases: str
    metric: str
    unit: str
    scale: float
    target: float
    lower_is_better: bool = False
    centre: Callable[[Sequence[float]], float] = statistics.median
    """How the samples of one round become one number, on both sides. For rates of blocks of equal size, the harmonic
    mean is all bytes by all time: what iperf3 and fio report."""

    def matches(self, case: str) -> bool:
        return re.fullmatch(self.cases, case) is not None

    def met(self, ratio: float) -> bool:
        return ratio <= self.target if self.lower_is_better else ratio >= self.target


class Peer:
    """What to hold gonogo against: what it needs, what it is, and how it answers for the cases of one round."""

    probe: str
    rows: tuple[Row, ...]
    programs: tuple[tuple[str, str], ...] = ()
    """Programs, each with its Debian package."""
    about: tuple[str, ...]
    """The command whose first line says which version it is."""

    def __init__(self, directory: Path, scratch: Path) -> None:
        self.directory, self.scratch = directory, scratch

    def missing(self) -> str | None:
        lacking = [(program, package) for program, package in self.programs if not shutil.which(program)]
        return f"no {lacking[0][0]} here: apt-get install {' '.join(package for _, package in lacking)}" if lacking else None

    def measure(self, gonogo: Samples) -> Samples:
        raise NotImplementedError

    def launch(self, binary: Path) -> list[str | Path]:
        """What starts gonogo: by default the binary itself, on this machine."""
        return [binary]


class Gemm(Peer):
    probe = "gemm"
    rows = (Row(r"f32 \d+ cores?", "flops", "GFLOP/s", 1e9, 0.97),)
    about = (
        sys.executable, "-c",
        "import numpy as n; b = n.show_config(mode='dicts')['Build Dependencies']['blas']; print('numpy', n.__version__, 'with', b['name'], b['version'])",
    )  # fmt: skip
    PRODUCT = """
import json, time
import numpy as np
n, random = 4096, np.random.default_rng(1)
a, b = (random.random((n, n), dtype=np.float32) * 2 - 1 for _ in range(2))
c = np.empty((n, n), dtype=np.float32)
begin = time.perf_counter()
while time.perf_counter() - begin < 2:
    np.matmul(a, b, out=c)
flops = []
for _ in range(10):
    start = time.perf_counter()
    np.matmul(a, b, out=c)
    flops.append(2 * n**3 / (time.perf_counter() - start))
assert np.allclose(c[7], a[7].astype(np.float64) @ b.astype(np.float64), atol=1e-3), "wrong product"
print(json.dumps(flops))
"""

    def missing(self) -> str | None:
        return None if importlib.util.find_spec("numpy") else f"no numpy here: {sys.executable} -m pip install numpy"

    def measure(self, gonogo: Samples) -> Samples:
        # As many threads as gonogo used: `f32 2 cores`.
        return {case: run_json([sys.executable, "-c", self.PRODUCT], 300, env={"OPENBLAS_NUM_THREADS": case.split()[1]}) for case in gonogo}


class Tcp(Peer):
    probe = "tcp"
    rows = (Row(r"loopback \d+ streams?", "bandwidth", "GB/s", 1e9, 0.95, centre=statistics.harmonic_mean),)
    programs = (("iperf3", "iperf3"),)
    about = ("iperf3", "--version")

    def measure(self, gonogo: Samples) -> Samples:
        return {case: [self.bandwidth(case.split()[1])] for case in gonogo}

    def bandwidth(self, streams: str) -> float:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        # The first second is left out: gonogo's first block is not counted, either.
        client = ["iperf3", "-c", "127.0.0.1", "-p", port, "-P", streams, "-O", "1", "-t", "3", "-J"]
        server = start(["iperf3", "-s", "-1", "-B", "127.0.0.1", "-p", port])
        try:
            answer: dict[str, Any] = {"error": "refused"}
            deadline = time.monotonic() + 5
            while "refused" in answer.get("error", "") and time.monotonic() < deadline:
                time.sleep(0.1)
                answer = run_json(client, 30, ok=(0, 1))
            if "error" in answer:
                raise Failure(client, answer["error"], stop(server))
            return float(answer["end"]["sum_received"]["bits_per_second"]) / 8
        finally:
            stop(server)


class AllReduce(Peer):
    probe = "collective"
    SMALL, LARGE = "all-reduce node n=2 8 B", "all-reduce node n=2 64 MiB"
    rows = (Row(SMALL, "latency", "us", 1e-6, 1.0, lower_is_better=True), Row(LARGE, "busbw", "GB/s", 1e9, 1.0))
    programs = (("mpirun", "openmpi-bin"), ("mpicc", "libopenmpi-dev"))
    about = ("mpirun", "--version")
    # No shared memory: what the ranks exchange goes through TCP, as with gonogo.
    TRANSPORT = ("--mca", "pml", "ob1", "--mca", "btl", "tcp,self", "--mca", "btl_tcp_if_include", "lo", "--mca", "coll", "^sm")

    def measure(self, gonogo: Samples) -> Samples:
        program = self.scratch / "allreduce"
        if not program.exists():
            run(["mpicc", "-O2", "-o", program, ALLREDUCE_SOURCE], 60)
        seconds = run_json(["mpirun", "--allow-run-as-root", "-np", "2", *self.TRANSPORT, program], 120)
        # Between 2 ranks the bus factor of an all-reduce is 1.
        return {self.SMALL: seconds["8"], self.LARGE: [64 * MIB / s for s in seconds[str(64 * MIB)]]}


class Storage(Peer):
    probe = "storage"
    rows = (Row("write", "write", "MB/s", 1e6, 0.95, centre=statistics.harmonic_mean),)
    programs = (("fio", "fio"),)
    about = ("fio", "--version")
    BLOCK = 128

    def measure(self, gonogo: Samples) -> Samples:
        # fdatasync=N counts writes: 128 of 1 MiB are gonogo's block of 128 MiB. fio syncs before the write that follows
        # a block, so it takes one write more than the blocks hold to have the last one synced, too.
        syncs = len(gonogo["write"])
        writes = syncs * self.BLOCK + 1
        command = [
            "fio", "--name=write", f"--directory={self.directory}", "--rw=write", "--bs=1M", f"--size={writes}M", "--ioengine=psync",
            "--direct=0", f"--fdatasync={self.BLOCK}", "--fallocate=none", "--unlink=1", "--output-format=json",
        ]  # fmt: skip
        job = run_json(command, 300)["jobs"][0]
        write, sync = job["write"]["clat_ns"], job["sync"]["lat_ns"]
        if (write["N"], sync["N"]) != (writes, syncs):
            raise Failure(command, f"{write['N']} writes and {sync['N']} syncs, not {writes} and {syncs}")
        # The time inside the calls: what gonogo times. fio's own bw_bytes also counts the time in which it makes its
        # data (with --refill_buffers a quarter of all time on a fast disk), which would flatter gonogo.
        return {"write": [writes * MIB * 1e9 / (write["mean"] * writes + sync["mean"] * syncs)]}


PEERS: dict[str, type[Peer]] = {"gemm": Gemm, "tcp": Tcp, "allreduce": AllReduce, "storage": Storage}


def gonogo(binary: Path, peer: Peer) -> Samples:
    """gonogo's samples of the cases that the peer's rows name; a case measured twice has the samples of both."""
    with tempfile.TemporaryDirectory(dir=peer.scratch) as out:
        record = Path(out, "record")
        command: list[str | Path] = [*peer.launch(binary), "check", "--tier", "standard", "--only", peer.probe, "--path", peer.directory]
        command += ["--budget", "120s", "--quiet", "--format", "json", "--out", record]
        # 0, 1 and 2 are verdicts: go, no-go, hold.
        run(command, 300, ok=(0, 1, 2))
        try:
            lines = [json.loads(line).get("outcome") for line in (record / "record.jsonl").read_text().splitlines()]
        except (OSError, ValueError) as error:
            raise Failure(command, f"left no record: {error}") from error
    found: Samples = {}
    why = ""
    for line in lines:
        for row in peer.rows if line and line["probe"] == peer.probe else ():
            if row.matches(line["case"]):
                series = line["outcome"].get("measured", {}).get("series", [])
                samples = [sample for one in series if one["metric"] == row.metric for sample in one["samples"]]
                found.setdefault(line["case"], []).extend(samples)
                why += "" if samples else json.dumps(line["outcome"]) + "\n"
    lacking = [case for case, samples in found.items() if not samples]
    lacking += [row.cases for row in peer.rows if not any(map(row.matches, found))]
    if lacking:
        raise Failure(command, f"no samples of {', '.join(lacking)}", why)
    return found


def user_seconds() -> tuple[float, float]:
    """User time that all processes of the machine took so far, and that children of this one took."""
    fields = Path("/proc/stat").read_text().split(maxsplit=3)
    return (int(fields[1]) + int(fields[2])) / os.sysconf("SC_CLK_TCK"), os.times().children_user


@dataclass
class Comparison:
    """What was measured for one line of the table."""

    name: str
    row: Row
    peer: str
    ours: list[list[float]] = field(default_factory=list)
    theirs: list[list[float]] = field(default_factory=list)
    """Samples by round."""
    others: float = 0.0
    """Cores' worth of user time that other processes took meanwhile."""

    def centres(self) -> tuple[list[float], list[float]]:
        return [self.row.centre(s) for s in self.ours], [self.row.centre(s) for s in self.theirs]

    def ratio(self) -> float:
        ours, theirs = self.centres()
        return statistics.median(ours) / statistics.median(theirs)

    def cells(self) -> list[str]:
        sides = self.centres()
        values = [f"{statistics.median(side) / self.row.scale:.4g} {self.row.unit}" for side in sides]
        rounds = [a / b for a, b in zip(*sides, strict=True)]
        target = f"{'<=' if self.row.lower_is_better else '>='} {self.row.target:.2f}"
        met = "yes" if self.row.met(self.ratio()) else "no"
        spread, others = f"{min(rounds):.2f}..{max(rounds):.2f}", f"{self.others:.2f} cores"
        return [self.name, *values, f"{self.ratio():.3f}", spread, others, target, met]

    def raw(self) -> dict[str, Any]:
        facts = {"comparison": self.name, "metric": self.row.metric, "lower_is_better": self.row.lower_is_better, "target": self.row.target}
        return {**facts, "ratio": self.ratio(), "peer": self.peer, "others_cores": self.others, "samples": {"gonogo": self.ours, "peer": self.theirs}}


def compare(name: str, binary: Path, peer: Peer, rounds: int) -> list[Comparison]:
    """All lines of one peer."""
    about = run(peer.about, 60).splitlines()[0]
    lines: dict[str, Comparison] = {}
    begin, all_before, own_before = time.monotonic(), *user_seconds()
    for number in range(1, rounds + 1):
        print(f"{name}: round {number} of {rounds}", file=sys.stderr)
        # What others left to be written is not the work of the next.
        os.sync()
        ours = gonogo(binary, peer)
        os.sync()
        theirs = peer.measure(ours)
        for case, samples in ours.items():
            row = next(row for row in peer.rows if row.matches(case))
            line = lines.setdefault(case, Comparison(f"{name}: {case}", row, about))
            line.ours.append(samples)
            line.theirs.append(theirs[case])
    all_after, own_after = user_seconds()
    for line in lines.values():
        line.others = max(0.0, all_after - all_before - (own_after - own_before)) / (time.monotonic() - begin)
    return list(lines.values())


def table(lines: Sequence[Sequence[str]]) -> str:
    """Aligned. A line of two cells, a name and a remark, widens the first column only."""
    widths = [max(len(line[i]) for line in lines if i == 0 or len(line) > 2) for i in range(len(lines[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=False)).rstrip() for line in lines)


def main(peers: Mapping[str, type[Peer]] = PEERS, about: str | None = __doc__) -> int:
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gonogo", type=Path, default="target/release/gonogo", metavar="PATH", help="the binary (default: %(default)s)")
    parser.add_argument("--only", action="append", choices=list(peers), help="compare only this; may be given more than once")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="times that each side runs (default: %(default)s)")
    parser.add_argument("--dir", type=Path, metavar="DIR", help="where storage writes (default: a new directory in the current one)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples to FILE")
    args = parser.parse_args()
    if not os.access(args.gonogo, os.X_OK):
        parser.error(f"{args.gonogo} is no program: build it (cargo build --release), or name it with --gonogo")
    if args.rounds < 1:
        parser.error("--rounds must be 1 or more")
    if args.dir and not args.dir.is_dir():
        parser.error(f"{args.dir} is no directory")

    done: list[Comparison] = []
    remarks: list[list[str]] = []
    failed = False
    with tempfile.TemporaryDirectory() as scratch, tempfile.TemporaryDirectory(prefix="peers-", dir=args.dir or Path.cwd()) as directory:
        for name in dict.fromkeys(args.only or peers):
            peer = peers[name](Path(directory), Path(scratch))
            if why := peer.missing():
                remarks.append([name, f"skipped: {why}"])
                continue
            try:
                done += compare(name, args.gonogo.resolve(), peer, args.rounds)
            except Failure as failure:
                print(f"{name}: {failure}", file=sys.stderr)
                remarks.append([name, "failed: see above"])
                failed = True
    head = ["comparison", "gonogo median", "peer median", "ratio", "by round", "others took", "target", "met"]
    print(table([head, *(line.cells() for line in done), *remarks]))
    if done:
        print("\npeers: " + ", ".join(dict.fromkeys(line.peer for line in done)))
    if args.json:
        args.json.write_text(json.dumps({"comparisons": [line.raw() for line in done], "not_compared": dict(remarks)}, indent=1) + "\n")
    return 1 if failed or not all(line.row.met(line.ratio()) for line in done) else 0


if __name__ == "__main__":
    sys.exit(main())

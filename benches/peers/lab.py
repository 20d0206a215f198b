#!/usr/bin/env python3
"""Holds gonogo's probes between nodes against the field's own tools, over the hosts of the Slurm lab.

  tcp        4 streams between two hosts    against iperf3
  allreduce  four hosts, a rank each, TCP   against Open MPI

The lab (tests/labs/slurm-lab) is brought up for it; it needs root and the lab's packages. How the table is read stands in
compare.py. All hosts share this machine's cores: the ratios compare software, the rates say nothing of a network.
"""

from __future__ import annotations

import os
import secrets
import statistics
import subprocess
import sys
import time
from pathlib import Path

from compare import ALLREDUCE_SOURCE, MIB, Failure, Peer, Row, Samples, main, run, run_json, start, stop

LAB = Path(__file__).resolve().parents[2] / "tests/labs/slurm-lab"


class LabPeer(Peer):
    nodes: int

    def missing(self) -> str | None:
        can = subprocess.run([LAB, "check"], capture_output=True, text=True)
        return super().missing() or (None if can.returncode == 0 else can.stdout.strip())

    def launch(self, binary: Path) -> list[str | Path]:
        # mpirun's and srun's children read it from the environment.
        os.environ.setdefault("GONOGO_TOKEN", secrets.token_hex(32))
        return [LAB, "srun", f"-N{self.nodes}", "--ntasks-per-node=1", binary]


class LabTcp(LabPeer):
    probe, nodes = "tcp", 2
    rows = (Row("pair out", "bandwidth", "GB/s", 1e9, 0.95, centre=statistics.harmonic_mean),)
    programs = (("iperf3", "iperf3"),)
    about = ("iperf3", "--version")
    STREAMS, PORT = "4", "5201"

    def measure(self, gonogo: Samples) -> Samples:
        server = start([LAB, "exec", "node2", "iperf3", "-s", "-1", "-p", self.PORT])
        try:
            time.sleep(0.5)
            client = [LAB, "exec", "node1", "iperf3", "-c", "node2", "-p", self.PORT, "-P", self.STREAMS, "-O", "1", "-t", "3", "-J"]
            answer = run_json(client, 30, ok=(0, 1))
            if "error" in answer:
                raise Failure(client, answer["error"], stop(server))
            return {"pair out": [float(answer["end"]["sum_received"]["bits_per_second"]) / 8]}
        finally:
            stop(server)


class LabAllReduce(LabPeer):
    probe, nodes = "collective", 4
    SMALL, LARGE = "all-reduce world n=4 8 B", "all-reduce world n=4 64 MiB"
    rows = (Row(SMALL, "latency", "us", 1e-6, 1.0, lower_is_better=True), Row(LARGE, "busbw", "GB/s", 1e9, 1.0))
    programs = (("mpirun", "openmpi-bin"), ("mpicc", "libopenmpi-dev"))
    about = ("mpirun", "--version")
    # Four ranks on fewer cores: who waits must give its core away, or an operation takes milliseconds.
    TRANSPORT = (
        "--mca", "pml", "ob1", "--mca", "btl", "tcp,self", "--mca", "btl_tcp_if_include", "eth0", "--mca", "coll", "^sm",
        "--mca", "mpi_yield_when_idle", "1",
    )  # fmt: skip

    def measure(self, gonogo: Samples) -> Samples:
        program = self.scratch / "allreduce"
        if not program.exists():
            run(["mpicc", "-O2", "-o", program, ALLREDUCE_SOURCE], 60)
        seconds = run_json([LAB, "mpirun", "-np", "4", "--map-by", "ppr:1:node", *self.TRANSPORT, program], 240)
        # Among 4 ranks the bus factor of an all-reduce is 2 * 3 / 4.
        return {self.SMALL: seconds["8"], self.LARGE: [1.5 * 64 * MIB / s for s in seconds[str(64 * MIB)]]}


if __name__ == "__main__":
    able = subprocess.run([LAB, "check"], capture_output=True).returncode == 0
    if able:
        run([LAB, "up", "-n", "4"], 120)
    try:
        sys.exit(main({"tcp": LabTcp, "allreduce": LabAllReduce}, __doc__))
    finally:
        if able:
            run([LAB, "down"], 60)

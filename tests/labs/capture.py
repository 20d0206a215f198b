#!/usr/bin/env python3
"""What PyTorch and NCCL leave behind on one GPU, for fixtures: flight recorder, RAS, a refused communicator.

    capture.py OUT      # a Python with torch and CUDA
"""
import os, socket, subprocess, sys, threading, time

out = sys.argv[1]
os.makedirs(out, exist_ok=True)

ONE = '''
import os, sys, time, torch, torch.distributed as dist
out = sys.argv[1]
torch.cuda.set_device(0)
dist.init_process_group("nccl")
x = torch.ones(1 << 20, device="cuda")
for _ in range(5):
    dist.all_reduce(x)
dist.all_gather_into_tensor(torch.empty(1 << 20, device="cuda"), x)
torch.cuda.synchronize()
from torch._C import _distributed_c10d as c
open(f"{out}/recorder_0.pickle", "wb").write(c._dump_nccl_trace())
try:
    open(f"{out}/recorder_0.json", "wb").write(c._dump_nccl_trace_json().encode() if isinstance(c._dump_nccl_trace_json(), str) else c._dump_nccl_trace_json())
except Exception as error:
    print("json:", error)
print("ready", flush=True)
# A kernel that does not end for a while, and a collective behind it: what is in flight.
torch.cuda._sleep(int(4e9))
dist.all_reduce(x)
time.sleep(0.5)
open(f"{out}/recorder_0_busy.pickle", "wb").write(c._dump_nccl_trace())
time.sleep(8)
dist.destroy_process_group()
'''
TWO = '''
import torch, torch.distributed as dist
torch.cuda.set_device(0)
dist.init_process_group("nccl")
dist.all_reduce(torch.ones(8, device="cuda"))
torch.cuda.synchronize()
'''


def ras(command, wait=4):
    try:
        with socket.create_connection(("localhost", 28028), 3) as s:
            s.settimeout(wait)
            s.sendall(command.encode())
            said = b""
            try:
                while True:
                    part = s.recv(65536)
                    if not part:
                        break
                    said += part
            except TimeoutError:
                pass
            return said
    except OSError as error:
        return repr(error).encode()


def run(name, program, ranks, seconds, **env):
    open(f"{out}/{name}.py", "w").write(program)
    with open(f"{out}/{name}.log", "w") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={ranks}", f"{out}/{name}.py", out],
            stdout=log, stderr=subprocess.STDOUT,
            env=dict(os.environ, NCCL_DEBUG="INFO", TORCH_NCCL_TRACE_BUFFER_SIZE="2000", TORCH_FR_BUFFER_SIZE="2000",
                     NCCL_RAS_ENABLE="1", **env))


one = run("one", ONE, 1, 60)
until = time.time() + 60
while time.time() < until and "ready" not in open(f"{out}/one.log").read():
    time.sleep(0.2)
time.sleep(0.7)
for name, command in (("status", "status\n"), ("verbose", "verbose status\n"), ("json", "set format json\nverbose status\n"),
                      ("protocol", "client protocol 2\n"), ("junk", "nonsense\n")):
    open(f"{out}/ras-{name}.txt", "wb").write(ras(command))
one.wait(60)
two = run("two", TWO, 2, 60)
try:
    two.wait(60)
except subprocess.TimeoutExpired:
    two.kill()
for name in ("one.py", "two.py"):
    os.remove(f"{out}/{name}")
print(sorted(os.listdir(out)))

#!/usr/bin/env python3
"""A rank of a training run by torch and gloo, under srun, which fails as it is told:

    failing-trainer.py FAULT GUILTY STEP FOLDER [STEPS]     # FAULT `none` trains to the end; FOLDER holds its saves, and says how far it is
"""
import ctypes, datetime, logging, os, signal, sys, time
import torch, torch.distributed as dist
rank, world = int(os.environ["SLURM_PROCID"]), int(os.environ["SLURM_NTASKS"])
fault, guilty, at, folder = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
steps = int(sys.argv[5]) if len(sys.argv) > 5 else 400
logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
torch.set_num_threads(1)
dist.init_process_group("gloo", rank=rank, world_size=world, timeout=datetime.timedelta(seconds=8))
weights = torch.randn(256, 256, generator=torch.Generator().manual_seed(1))
mine = rank == guilty
if mine:
    open(f"{folder}/pid", "w").write(str(os.getpid()))
for step in range(1, steps + 1):
    loss = (weights @ weights).sum()
    size = 4096
    if mine and step == at:
        if fault == "exception":
            raise ValueError(f"batch {step} has 4095 tokens, 4096 expected")
        if fault == "assertion":
            assert loss != loss, "tokenizer and model disagree"
        if fault == "exit":
            sys.exit(0)
        if fault == "crash":
            ctypes.string_at(0)
        if fault == "shape":
            size = 1024
        if fault == "memory":
            import resource
            resource.setrlimit(resource.RLIMIT_AS, (1 << 31, 1 << 31))
            torch.empty(1 << 34, dtype=torch.uint8)
        if fault == "abort":
            os.abort()
    gradient = torch.full((size,), float(rank))
    dist.all_reduce(gradient)
    if step % 10 == 0:
        logging.info(f"step {step} loss {loss.item():.3f}")
        if fault in ("full-disk", "read-only"):
            with open(f"{folder}/save-{rank}", "wb") as file:
                file.write(os.urandom(2 << 20))
                file.flush()
                os.fsync(file.fileno())
        if mine:
            open(f"{folder}/step", "w").write(str(step))
    time.sleep(0.02)
logging.info("done")

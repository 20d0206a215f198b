#!/usr/bin/env python3
"""A real save by torch.distributed.checkpoint, 2 GiB from 4 ranks over gloo, beside what the rehearsal says that it takes.

    python3 benches/dcp.py [GONOGO] [DIR] [ROUNDS]     # a Python with torch; about 6 GB in DIR
"""
import glob, json, os, shutil, statistics, subprocess, sys, tempfile, time

RANKS, GIB = 4, 1 << 30
SIZE = 2 * GIB


def rank(number, store, folder, rounds):
    import torch, torch.distributed as dist, torch.distributed.checkpoint as dcp
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=number, world_size=RANKS)
    # What a rank of a sharded optimiser holds: its own shards.
    each = SIZE // RANKS // 8 // 4
    state = {f"layer{i}.rank{number}": torch.randn(each) for i in range(8)}
    for turn in range(rounds):
        dist.barrier()
        start = time.monotonic()
        dcp.save(state, checkpoint_id=f"{folder}/step{turn}")
        dist.barrier()
        if number == 0:
            print(time.monotonic() - start, flush=True)
            # The other half of the comparison comes now, on a machine that is quiet.
            sys.stdin.readline()
            shutil.rmtree(f"{folder}/step{turn}")
        dist.barrier()


if len(sys.argv) > 1 and sys.argv[1] == "rank":
    rank(int(sys.argv[2]), sys.argv[3], sys.argv[4], int(sys.argv[5]))
    sys.exit()

gonogo = os.path.realpath(sys.argv[1] if len(sys.argv) > 1 else "target/release/gonogo")
home = os.path.realpath(tempfile.mkdtemp(dir=sys.argv[2] if len(sys.argv) > 2 else "."))
rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 7
os.makedirs(f"{home}/ckpt")
with open(f"{home}/run.toml", "w") as plan:
    plan.write(f'[nodes]\nneeded = 1\ngpus_per_node = {RANKS}\n[checkpoint]\ndir = "{home}/ckpt"\nsize = "2 GiB"\nfiles = {RANKS}\n')


def predicted():
    """Seconds, by the rate of the rehearsal."""
    out = f"{home}/out"
    shutil.rmtree(out, ignore_errors=True)
    subprocess.run([gonogo, "check", "--plan", f"{home}/run.toml", "--only", "checkpoint", "--tier", "standard", "--quiet", "--out", out],
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for line in open(glob.glob(f"{out}/**/record.jsonl", recursive=True)[0]):
        for series in json.loads(line).get("outcome", {}).get("outcome", {}).get("measured", {}).get("series", []):
            if series["metric"] == "write":
                return SIZE / statistics.median(series["samples"])


me = [sys.executable, os.path.realpath(__file__), "rank"]
ranks = [subprocess.Popen(me + [str(r), f"{home}/store", f"{home}/dcp", str(rounds)], text=True, stderr=subprocess.DEVNULL,
                          stdin=subprocess.PIPE if r == 0 else subprocess.DEVNULL,
                          stdout=subprocess.PIPE if r == 0 else subprocess.DEVNULL) for r in range(RANKS)]
real, said = [], []
for _ in range(rounds):
    real.append(float(ranks[0].stdout.readline()))
    said.append(predicted())
    ranks[0].stdin.write("\n"), ranks[0].stdin.flush()
    print(f"  torch {real[-1]:.3f} s, rehearsed {said[-1]:.3f} s", flush=True)
for process in ranks:
    process.wait()
middle = statistics.median
print(f"a save of 2 GiB by 4 ranks: torch.distributed.checkpoint {middle(real):.3f} s, rehearsed {middle(said):.3f} s, "
      f"ratio {middle(said) / middle(real):.3f}, n = {rounds}")
shutil.rmtree(home)

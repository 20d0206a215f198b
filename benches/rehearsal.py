#!/usr/bin/env python3
"""A rehearsed step beside the same products and messages in PyTorch (gloo), on the same nodes, in turn.

    python3 benches/rehearsal.py [GONOGO] [ROUNDS]     # root, for tests/labs/slurm-lab; PYTHON: one with torch

Shapes and sizes are read from gonogo's own record. Prints the medians of the slowest rank's computing alone and of its whole step, and their ratios.
"""
import json, os, statistics, subprocess, sys, tempfile, time

LAB = os.path.join(os.path.dirname(os.path.realpath(__file__)), "../tests/labs/slurm-lab")
NODES, STEPS = 2, 30
PLAN = "[nodes]\nneeded = 2\n[model]\nlayers = 4\nhidden = 256\nffn = 1024\nheads = 8\nvocab = 8192\nsequence = 128\n"


def rank():
    """One rank in torch: the same layers, the gradients of each sent while the next is computed."""
    import torch, torch.distributed as dist
    shapes = json.load(open(sys.argv[2]))
    me, world = int(os.environ["SLURM_PROCID"]), int(os.environ["SLURM_NTASKS"])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://{sys.argv[3]}:29511", rank=me, world_size=world)
    forward = [(p["m"], p["n"], p["k"], p["times"]) for p in shapes["products"]]
    backward = [p for m, n, k, t in forward for p in ((m, k, n, t), (k, n, m, t))]
    all_ = forward + backward
    a, b, c = (torch.rand(max(f(p) for p in all_)) - 0.5 for f in (lambda p: p[0] * p[2], lambda p: p[2] * p[1], lambda p: p[0] * p[1]))

    def run(products):
        for m, n, k, times in products:
            for _ in range(times):
                torch.mm(a[: m * k].view(m, k), b[: k * n].view(k, n), out=c[: m * n].view(m, n))

    # Reduce-scatter and all-gather of a layer: gloo has them as of tensors of all ranks.
    scatter, gather = (next(m["bytes"] // 4 for m in shapes["gradients"] if m["op"] == op) for op in ("reduce-scatter", "all-gather"))
    part = lambda n: -(-n // world)
    grads, own = torch.ones(part(scatter) * world), torch.zeros(part(scatter))
    weights, piece = torch.zeros(part(gather) * world), torch.ones(part(gather))

    def alone():
        for products in (forward, backward):
            for _ in range(shapes["layers"]):
                run(products)

    def step():
        for _ in range(shapes["layers"]):
            run(forward)
        works = []
        for _ in range(shapes["layers"]):
            run(backward)
            works.append(dist.reduce_scatter_tensor(own, grads, async_op=True))
            works.append(dist.all_gather_into_tensor(weights, piece, async_op=True))
        for w in works:
            w.wait()

    for turn in range(STEPS + 3):
        both = []
        for work in (alone, step):
            dist.barrier()
            start = time.perf_counter()
            work()
            took = torch.tensor([time.perf_counter() - start], dtype=torch.float64)
            dist.all_reduce(took, op=dist.ReduceOp.MAX)
            both.append(took.item())
        if me == 0 and turn >= 3:
            print(*both, flush=True)


if len(sys.argv) > 1 and sys.argv[1] == "rank":
    rank()
    sys.exit()

gonogo = os.path.realpath(sys.argv[1] if len(sys.argv) > 1 else "target/release/gonogo")
rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 5
python = os.environ.get("PYTHON", sys.executable)
os.environ.setdefault("GONOGO_TOKEN", "0f1e5a3c9b7d2846e1c0a9f83b6d5247")
home = tempfile.mkdtemp()
open(f"{home}/run.toml", "w").write(PLAN)
subprocess.run([LAB, "up", "-n", str(NODES)], check=True, stdout=subprocess.DEVNULL)
srun = [LAB, "srun", f"-N{NODES}", "--ntasks-per-node=1"]
ours, theirs = [], []
try:
    address = subprocess.run([LAB, "exec", "node1", "hostname", "-I"], capture_output=True, text=True).stdout.split()[0]
    for turn in range(rounds):
        out = f"{home}/r{turn}"
        subprocess.run(srun + [gonogo, "check", "--quiet", "--plan", f"{home}/run.toml", "--only", "environment,rehearsal", "--out", out],
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        lines = [json.loads(line).get("outcome", {}) for line in open(f"{out}/record.jsonl")]
        told = next(o["outcome"]["measured"]["facts"]["rehearsal"] for o in lines if o.get("case") == f"step n={NODES}")
        assert told["narrow"] == 1, "not the run's own layers"
        middle = lambda what: statistics.median(map(max, zip(*(r[what] for r in told["ranks"]))))
        ours.append((middle("alone"), middle("whole")))
        training = told["training"]
        shapes = {"layers": told["layers"], "products": training["products"], "gradients": training["gradients"]}
        json.dump(shapes, open(f"{home}/shapes.json", "w"))
        said = subprocess.run(srun + [python, os.path.realpath(__file__), "rank", f"{home}/shapes.json", address],
                              capture_output=True, text=True)
        steps = [tuple(map(float, line.split())) for line in said.stdout.splitlines()]
        if not steps:
            sys.exit(f"torch said nothing: {said.stderr[-2000:]}")
        theirs.append(tuple(map(statistics.median, zip(*steps))))
        show = lambda of: " and ".join(f"{1e3 * s:.1f} ms" for s in of)
        print(f"{turn + 1}: gonogo {show(ours[-1])}, torch {show(theirs[-1])}, {shapes['layers']} layers", flush=True)
finally:
    subprocess.run([LAB, "down"], stdout=subprocess.DEVNULL)
for i, what in enumerate(("computing alone", "the whole step")):
    a, b = (statistics.median(t[i] for t in of) for of in (ours, theirs))
    print(f"{what}, medians of {rounds}: gonogo {a * 1e3:.1f} ms, torch {b * 1e3:.1f} ms, ratio {a / b:.2f}")

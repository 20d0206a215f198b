#!/usr/bin/env python3
"""The rehearsed save and restore beside fio: the same bytes, files, writers and fsync, in turns on one directory.

    python3 benches/checkpoint.py [GONOGO] [DIR] [ROUNDS]     # about 1 GB in DIR
"""
import glob, json, os, shutil, statistics, subprocess, sys, tempfile

gonogo = os.path.realpath(sys.argv[1] if len(sys.argv) > 1 else "target/release/gonogo")
home = tempfile.mkdtemp(dir=sys.argv[2] if len(sys.argv) > 2 else ".")
rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 7
WRITERS, MIB = 4, 64
os.makedirs(f"{home}/ckpt")
# A save of exactly what one round writes: four files.
with open(f"{home}/run.toml", "w") as plan:
    plan.write(f'[checkpoint]\ndir = "{home}/ckpt"\nsize = "{WRITERS * MIB} MiB"\nfiles = {WRITERS}\n')


def ours():
    out = f"{home}/out"
    shutil.rmtree(out, ignore_errors=True)
    subprocess.run([gonogo, "check", "--plan", f"{home}/run.toml", "--only", "checkpoint", "--quiet", "--budget", "20s", "--out", out],
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    rates = {}
    for line in open(glob.glob(f"{out}/**/record.jsonl", recursive=True)[0]):
        found = json.loads(line)
        for series in found.get("outcome", {}).get("outcome", {}).get("measured", {}).get("series", []):
            rates[series["metric"]] = statistics.median(series["samples"])
    return rates["write"], rates["read"]


def fio(rw, folder, *more):
    """Bytes a second of all jobs by the time of the slowest."""
    out = subprocess.run(
        ["fio", "--name=job", f"--directory={folder}", f"--rw={rw}", "--bs=1M", f"--size={MIB}M", f"--numjobs={WRITERS}", "--ioengine=psync",
         "--fallocate=none", "--thread", "--output-format=json", *more], check=True, capture_output=True, text=True).stdout
    jobs = json.loads(out[out.index("{"):])["jobs"]
    side = "write" if rw == "write" else "read"
    return WRITERS * MIB * (1 << 20) / (max(j[side]["runtime"] for j in jobs) / 1e3)


def theirs():
    writes, reads = [], []
    for _ in range(8):
        shutil.rmtree(f"{home}/fio", ignore_errors=True)
        os.makedirs(f"{home}/fio")
        writes.append(fio("write", f"{home}/fio", "--create_on_open=1", "--end_fsync=1"))
        reads.append(fio("read", f"{home}/fio", "--direct=1"))
    return statistics.median(writes), statistics.median(reads)


pairs = [(ours(), theirs()) if turn % 2 else tuple(reversed((theirs(), ours()))) for turn in range(rounds)]
for i, what in enumerate(("save", "restore")):
    a, b = [p[0][i] for p in pairs], [p[1][i] for p in pairs]
    by_round = sorted(x / y for x, y in zip(a, b))
    ratio = statistics.median(a) / statistics.median(b)
    print(f"{what:8} gonogo {statistics.median(a) / 1e9:.3f} GB/s  fio {statistics.median(b) / 1e9:.3f} GB/s  ratio {ratio:.3f}  "
          f"by round {by_round[0]:.2f}..{by_round[-1]:.2f}  n = {rounds}")
shutil.rmtree(home)

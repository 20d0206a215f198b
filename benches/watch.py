#!/usr/bin/env python3
"""What `gonogo watch` costs: a writer beside a copy with its limit on, and the watch itself when nothing happens.

    python3 benches/watch.py [GONOGO]     # writes under the current directory, about 3 GB
"""
import os, resource, shutil, signal, statistics, subprocess, sys, tempfile, time

gonogo = os.path.realpath(sys.argv[1] if len(sys.argv) > 1 else "target/release/gonogo")
home = tempfile.mkdtemp(dir=".")
hot, cold = f"{home}/hot", f"{home}/cold"
os.makedirs(hot), os.makedirs(cold)
block = os.urandom(1 << 20)


def save(step, mib=48, files=4):
    """Seconds of a save: files of random bytes, each flushed, then the pointer."""
    start = time.monotonic()
    os.makedirs(f"{hot}/global_step{step}")
    for rank in range(files):
        with open(f"{hot}/global_step{step}/rank{rank}.pt", "wb") as file:
            for _ in range(mib // files):
                file.write(block)
            os.fsync(file.fileno())
    took = time.monotonic() - start
    open(f"{hot}/latest", "w").write(f"global_step{step}")
    return took


def watch(rate, every="1s"):
    with open(f"{home}/run.toml", "w") as plan:
        plan.write(f'[checkpoint]\ndir = "{os.path.realpath(hot)}"\n[watch]\ncold = "{os.path.realpath(cold)}"\n'
                   f'high = 0.000001\nlow = 0.000001\nevery = "{every}"\nrate = "{rate}"\n')
    return subprocess.Popen([gonogo, "watch", "--plan", f"{home}/run.toml", "--quiet", "--out", f"{home}/out"],
                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def usage(pid):
    fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
    rss = next(int(l.split()[1]) for l in open(f"/proc/{pid}/status") if l.startswith("VmHWM"))
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), rss / 1024


step, alone, beside = 0, [], []
for turn in range(8):
    for into, rate in ((alone, None), (beside, "40 MB/s")):
        running = watch(rate) if rate else None
        if running:
            time.sleep(2.5)  # a copy is under way
        for _ in range(4):
            step += 500
            into.append(save(step))
            time.sleep(0.2)
        if running:
            running.send_signal(signal.SIGTERM), running.wait()
        for old in sorted(os.listdir(hot)):
            if old.startswith("global_step") and int(old[11:]) < step - 2000:
                shutil.rmtree(f"{hot}/{old}")
middle = statistics.median
ratio = middle(beside) / middle(alone)
print(f"a save of 48 MiB: {middle(alone):.3f} s alone, {middle(beside):.3f} s beside a copy at 40 MB/s: {ratio:.3f} times, n = {len(alone)}")
shutil.rmtree(hot), os.makedirs(hot)
for i in range(200):
    os.makedirs(f"{hot}/global_step{500 * (i + 1)}")
    for rank in range(8):
        open(f"{hot}/global_step{500 * (i + 1)}/rank{rank}.pt", "w").write("x")
shutil.rmtree(cold), os.makedirs(cold)
with open(f"{home}/run.toml", "w") as plan:
    plan.write(f'[checkpoint]\ndir = "{os.path.realpath(hot)}"\n')
for every in ("10s", "1s"):
    running = subprocess.Popen([gonogo, "watch", "--plan", f"{home}/run.toml", "--quiet", "--every", every, "--out", f"{home}/idle"],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(3)
    before, _ = usage(running.pid)
    time.sleep(40)
    after, rss = usage(running.pid)
    running.send_signal(signal.SIGTERM), running.wait()
    print(f"200 settled checkpoints of 8 files, a look every {every}: {100 * (after - before) / 40:.2f} % of a core, {rss:.1f} MiB at the most")
shutil.rmtree(home)

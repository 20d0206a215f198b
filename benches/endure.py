#!/usr/bin/env python3
"""What many runs leave behind.

    endure.py kill N [GONOGO]    N checks, each killed (SIGKILL) at a random moment: is the record readable to its last outcome, and does
                                 anything stay: a process, a scratch folder, shared memory, a mount?
    endure.py lab N [GONOGO]     the same as kill, of checks of four hosts of the Slurm lab: each time rank 0's agent, another's, or all of them
    endure.py row N [GONOGO]     N checks in a row: does anything grow?
"""
import collections, glob, json, os, random, resource, subprocess, sys, tempfile, time
from concurrent.futures import ThreadPoolExecutor

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
ONLY = "environment,storage,tcp,memory"
# What is there so many seconds after the kill stays.
PATIENCE = 10
# How long it took until nothing was left, check by check.
SLOWEST = []


def start(gonogo, folder, only=ONLY, budget="6s"):
    return subprocess.Popen([gonogo, "check", "--alone", "--quiet", "--only", only, "--path", folder, "--budget", budget, "--out", folder + "/record"],
                            cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def of(folder):
    """Processes that work in that folder."""
    out = []
    for p in glob.glob("/proc/[0-9]*"):
        try:
            if os.readlink(p + "/cwd") == folder and open(p + "/stat").read().rsplit(") ", 1)[1][0] != "Z":
                out.append(p)
        except OSError:
            pass
    return out


def outside():
    """What is not in the folder of a run."""
    mounts = open("/proc/self/mountinfo").read().count("\n")
    return mounts, len(glob.glob("/dev/shm/*")), len(open("/proc/sysvipc/shm").read().splitlines())


def killed(gonogo, seed):
    folder = os.path.realpath(tempfile.mkdtemp(prefix="gonogo-endure-"))
    rng = random.Random(seed)
    child = start(gonogo, folder)
    time.sleep(rng.uniform(0, 5.5))
    child.kill(); child.wait()
    found = collections.Counter()
    begin = time.time()
    while (of(folder) or glob.glob(folder + "/.gonogo*")) and time.time() < begin + PATIENCE:
        time.sleep(0.02)
    SLOWEST.append(time.time() - begin)
    found["process"] += len(of(folder)); found["scratch"] += len(glob.glob(folder + "/.gonogo*"))
    try:
        raw = open(folder + "/record/record.jsonl", "rb").read()
    except OSError:
        raw = b""
    lines = raw.split(b"\n")
    whole = 0
    for line in lines[:-1]:
        json.loads(line); whole += b'"outcome"' in line[:12]
    if raw:
        said = subprocess.run([gonogo, "report", folder + "/record", "--format", "json"], capture_output=True, text=True)
        if said.returncode:
            found["unreadable"] += 0 if not lines[0] else 1
        else:
            cov = json.loads(said.stdout)["coverage"]
            found["outcomes read"] += cov["measured"]
    found["outcomes written"] += whole
    found["runs"] += 1
    subprocess.run(["rm", "-rf", folder])
    return found


LAB = ROOT + "/tests/labs/slurm-lab"
HOSTS = [f"node{k}" for k in range(1, 5)]


def in_lab(gonogo, shared, seed):
    rng = random.Random(seed)
    folder = tempfile.mkdtemp(prefix="gonogo-endure-")
    record = folder + "/record/record.jsonl"
    run = subprocess.Popen([LAB, "srun", "-N4", "--ntasks-per-node=1", gonogo, "check", "--quiet", "--only", "environment,tcp,collective,storage", "--path", shared,
                            "--budget", "10s", "--join-timeout", "10s", "--out", folder + "/record"], cwd=folder, stdin=subprocess.DEVNULL,
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "GONOGO_TOKEN": os.urandom(16).hex()})
    end = time.time() + 30
    while not os.path.exists(record) and run.poll() is None and time.time() < end:
        time.sleep(0.05)
    time.sleep(rng.uniform(0, 12))
    hit = HOSTS if rng.random() < 0.34 else [rng.choice(HOSTS[1:])] if rng.random() < 0.5 else HOSTS[:1]
    for host in hit:
        subprocess.run([LAB, "exec", host, "pkill", "-KILL", "-f", "gonogo check"], stdin=subprocess.DEVNULL, capture_output=True)
    try:
        run.wait(60)
    except subprocess.TimeoutExpired:
        run.kill(); run.wait()
    found = collections.Counter(runs=1)
    alive = lambda: sum(subprocess.run([LAB, "exec", h, "pgrep", "-x", "gonogo"], stdin=subprocess.DEVNULL, capture_output=True).returncode == 0 for h in HOSTS)
    end = time.time() + PATIENCE
    while (alive() or glob.glob(shared + "/.gonogo*")) and time.time() < end:
        time.sleep(0.2)
    found["process"] += alive(); found["scratch"] += len(glob.glob(shared + "/.gonogo*"))
    try:
        lines = open(record, "rb").read().split(b"\n")
    except OSError:
        lines = [b""]
    for line in lines[:-1]:
        json.loads(line); found["outcomes written"] += line.startswith(b'{"outcome"')
    if lines[0] and subprocess.run([gonogo, "report", folder + "/record"], capture_output=True).returncode:
        found["unreadable"] += 1
    subprocess.run(["rm", "-rf", folder])
    return found


def main():
    what, n = sys.argv[1], int(sys.argv[2])
    gonogo = os.path.abspath(sys.argv[3] if len(sys.argv) > 3 else ROOT + "/target/release/gonogo")
    before = outside()
    if what in ("kill", "lab"):
        if what == "kill":
            with ThreadPoolExecutor(4) as pool:
                total = sum(pool.map(lambda seed: killed(gonogo, seed), range(n)), collections.Counter())
        else:
            subprocess.run([LAB, "up", "-n", "4"], check=True, stdout=subprocess.DEVNULL)
            try:
                shared = subprocess.run([LAB, "shared"], capture_output=True, text=True).stdout.strip()
                total = sum((in_lab(gonogo, shared, seed) for seed in range(n)), collections.Counter())
            finally:
                subprocess.run([LAB, "down"])
        bad = {k: total[k] for k in ("process", "scratch", "unreadable") if total[k]}
        slowest = f", all gone after {sorted(SLOWEST)[len(SLOWEST) // 2]:.2f} s in the middle and {max(SLOWEST):.1f} s at most" if SLOWEST else ""
        print(f"{total['runs']} checks killed: {total['outcomes written']} outcomes written before, records unreadable {total['unreadable']}, "
              f"processes left {total['process']}, scratch folders left {total['scratch']}{slowest}, "
              f"mounts, shared memory before {before} after {outside()}")
        sys.exit(1 if bad or outside() != before else 0)
    folder = os.path.realpath(tempfile.mkdtemp(prefix="gonogo-endure-"))
    seconds, peak = [], []
    for i in range(n):
        begin = time.time()
        start(gonogo, folder, "environment,storage", "1s").wait()
        seconds.append(time.time() - begin)
        subprocess.run(["rm", "-rf", folder + "/record"])
        peak.append(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
    left, alive = os.listdir(folder), of(folder)
    tenth = max(1, n // 10)
    mean = lambda v: sum(v) / len(v)
    print(f"{n} checks in a row: first tenth {mean(seconds[:tenth]):.2f} s each, last tenth {mean(seconds[-tenth:]):.2f} s; largest process {peak[tenth - 1]} KiB after "
          f"a tenth, {peak[-1]} KiB at the end; left: {left} {alive}; mounts, shared memory before {before} after {outside()}")
    subprocess.run(["rm", "-rf", folder])
    sys.exit(1 if left or alive or outside() != before else 0)


main()

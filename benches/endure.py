#!/usr/bin/env python3
"""What many runs leave behind.

    endure.py kill N [GONOGO]    N checks, each killed (SIGKILL) at a random moment: is the record readable to its last outcome, and does
                                 anything stay: a process, a scratch folder, shared memory, a mount?
    endure.py row N [GONOGO]     N checks in a row: does anything grow?
"""
import collections, glob, json, os, random, resource, subprocess, sys, tempfile, time
from concurrent.futures import ThreadPoolExecutor

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
ONLY = "environment,storage,tcp,memory"


def start(gonogo, folder, only=ONLY):
    return subprocess.Popen([gonogo, "check", "--alone", "--quiet", "--only", only, "--path", folder, "--budget", "6s", "--out", folder + "/record"],
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
    end = time.time() + 3
    while (of(folder) or glob.glob(folder + "/.gonogo*")) and time.time() < end:
        time.sleep(0.02)
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


def main():
    what, n = sys.argv[1], int(sys.argv[2])
    gonogo = os.path.abspath(sys.argv[3] if len(sys.argv) > 3 else ROOT + "/target/release/gonogo")
    before = outside()
    if what == "kill":
        with ThreadPoolExecutor(4) as pool:
            total = sum(pool.map(lambda seed: killed(gonogo, seed), range(n)), collections.Counter())
        bad = {k: total[k] for k in ("process", "scratch", "unreadable") if total[k]}
        print(f"{total['runs']} checks killed: {total['outcomes written']} outcomes written before, records unreadable {total['unreadable']}, "
              f"processes left {total['process']}, scratch folders left {total['scratch']}, "
              f"mounts, shared memory before {before} after {outside()}")
        sys.exit(1 if bad or outside() != before else 0)
    folder = os.path.realpath(tempfile.mkdtemp(prefix="gonogo-endure-"))
    seconds, peak = [], []
    for i in range(n):
        begin = time.time()
        start(gonogo, folder, "environment,storage").wait()
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

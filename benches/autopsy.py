#!/usr/bin/env python3
"""`gonogo autopsy` on a log of 1 GB, and on the corpus of failures.

    benches/autopsy.py [GONOGO]     # target/release/gonogo

Target: at most 5 s and 200 MiB for the GB. Beside it, what `grep -c` takes for the words of one sign."""
import json, os, subprocess, sys, tempfile, time

HERE = os.path.dirname(os.path.abspath(__file__))
GONOGO = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else os.path.join(HERE, "../target/release/gonogo"))
FAILURES = os.path.join(HERE, "../tests/fixtures/failures")
CLASSES = {"gpu": ["MOR-001"], "node": ["MOR-002"], "link": ["MOR-003", "MOR-015"], "storage": ["MOR-004"], "host_memory": ["MOR-005"],
           "gpu_memory": ["MOR-006"], "program": ["MOR-007"], "outside": ["MOR-008"], "killed": ["MOR-009"], "absent": ["MOR-010"],
           "disagreement": ["MOR-011"], "setup": ["MOR-012", "MOR-020"], "unknown": ["MOR-010", "MOR-013", "MOR-014", "MOR-015"]}


def large(path, size):
    """Steps of 1,024 ranks, a warning in every thousandth line, an error near the end."""
    step = "".join(f"[default{r % 8}]:2026-11-27 09:{r % 60:02}:00,123 INFO step 1234 | rank {r} | loss 2.31{r:04} | grad norm 0.41 | lr 3.0e-04 | "
                   f"tokens/s 12345.6 | TFLOP/s 412.3\n" for r in range(1000))
    step += "[rank7]:[W1127 09:50:19.996939634 ProcessGroupNCCL.cpp:1575] Warning: a device was not given to a barrier (function operator())\n"
    with open(path, "w") as file:
        for _ in range(size // len(step)):
            file.write(step)
        file.write("2026-11-27 09:59:58 node3 kernel: NVRM: Xid (PCI:0000:3b:00): 79, pid=1, GPU has fallen off the bus.\n" + step)


def timed(command):
    start = time.time()
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    out = run.stdout.read()
    _, _, used = os.wait4(run.pid, 0)
    return time.time() - start, used.ru_maxrss / 1024, out


def main():
    with tempfile.TemporaryDirectory() as folder:
        log = os.path.join(folder, "train.log")
        large(log, 1 << 30)
        for _ in range(3):
            seconds, mib, out = timed([GONOGO, "autopsy", "--quiet", "--format", "json", "--log", log])
            found = [f["code"] for f in json.loads(out)["findings"]]
            grep, *_ = timed(["grep", "-c", "Xid", log])
            print(f"1 GiB: {seconds:.2f} s, {mib:.0f} MiB, {found[0]}; grep -c for one word {grep:.2f} s")
    right = {}
    for line in open(f"{FAILURES}/public/truth.jsonl"):
        case = json.loads(line)
        if case["evidence_in_log"] is False:
            continue
        _, _, out = timed([GONOGO, "autopsy", "--quiet", "--format", "json", "--log", f"{FAILURES}/public/{case['file']}"])
        found = [f["code"] for f in json.loads(out)["findings"] if f["severity"] in ("fail", "hold") or f["code"] == "MOR-008"]
        for key in ("all", case["basis"], case["class"]):
            good, all_ = right.get(key, (0, 0))
            right[key] = (good + (found[:1] != [] and found[0] in CLASSES[case["class"]]), all_ + 1)
    print("public threads: " + ", ".join(f"{key} {good} of {all_}" for key, (good, all_) in right.items()))


main()

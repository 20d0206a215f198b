#!/usr/bin/env python3
"""NVIDIA/nvidia-resiliency-ext's log analyser (restart_agent, without its model) on the corpus of failures.

Its deterministic part (stages L0A, L3, L4; the command line's --disable-l1) reads one log and gives a primary failure: a
class of its registry, the line, the rank. It needs no network and no GPU, of packages only httpx (imported, not used):

    git clone https://github.com/NVIDIA/nvidia-resiliency-ext       # read at d8686d9
    python3 -m venv venv && venv/bin/pip install httpx
    venv/bin/python benches/peers/nvrx.py nvidia-resiliency-ext/src [-v]

Most of its classes are ours by another name; `observed_exception` and `observed_failure` name no cause. Hence three readings:
  name      the class alone; an exception counts as `program`, and as nothing where the truth is another
  line      also what a person reads in the line it names as the primary failure
  anywhere  the same over every line that one of its patterns matched: an upper limit, no diagnosis
No primary failure is right where the truth is `unknown`, else nothing. Where words or classes allow several of ours, each counts."""
import json, re, sys, time
from collections import Counter
from pathlib import Path

FAILURES = Path(__file__).resolve().parents[2] / "tests/fixtures/failures"
LAB = {"kill": "killed", "stop": "absent", "link-down": "link node absent", "exception": "program", "assertion": "program",
       "crash": "program", "abort": "program", "exit": "absent", "shape": "disagreement", "memory": "host_memory",
       "full-disk": "storage", "read-only": "storage", "cancel": "outside"}
NAMES = {"gpu_hardware_fault": "gpu", "peer_gpu_memory_access_failure": "gpu program", "infra_policy_event": "outside node",
         "time_limit": "outside", "user_cancelled": "outside", "configuration_validation_failure": "setup program",
         "argument_validation_failure": "setup program", "artifact_or_path_not_found": "setup storage program",
         "checkpoint_compatibility_mismatch": "program", "shape_mismatch": "program disagreement", "cuda_oom": "gpu_memory",
         "filesystem_permission_denied": "setup storage program", "nan_or_inf": "program", "bad_token_or_window": "program",
         "framework_crash": "program", "linux_oom_kill_confirmation": "host_memory", "nccl_cascade": "unknown",
         "cuda_previous_error_cascade": "unknown", "observed_distributed_operation_timeout": "absent unknown"}
LINES = [(r"ECC error|NVLink error|fallen off the bus|RESET_REQUIRED", "gpu"),
         (r"No space left|quota exceeded|Input/output error|Stale file|Read-only file|write failed|Save model error", "storage"),
         (r"CUDA( error:)? out of memory|OutOfMemoryError", "gpu_memory"), (r"(can't|Cannot) allocate memory", "host_memory"),
         (r"with error 12|network error", "link"), (r"mismatch between collectives|collective mismatch", "disagreement"),
         (r"shared memory|address already in use|driver version|invalid usage|Rendezvous|failed to connect", "setup"),
         (r"got signal: (1|2|15)\b", "outside"), (r"SIGKILL|return code = -9|exitcode: -9", "killed"),
         (r"timed out|timeout|failed to pass|connection (reset|closed)", "absent unknown"),
         (r"assert|illegal memory access|SIGSEGV|\bnan\b", "program")]
SILENT = r"ChildFailedError:|Traceback \(most|Internal check failed"  # an exception that says nothing of what happened


def by_name(failure, truth):
    named = NAMES.get(failure.failure_class)
    return set(named.split()) if named else {"program", "unknown"} & truth


def by_line(failure, truth):
    text = failure.quote or ""
    read = set(" ".join([NAMES.get(failure.failure_class, "")] + [to for words, to in LINES if re.search(words, text, re.I)]).split())
    plain = failure.failure_class == "observed_exception" and not re.search(SILENT, text)
    return {"program"} if plain and not read else read


def verdict(failures, truth, reading):
    read = set().union(*(reading(failure, truth) for failure in failures))
    right = read & truth or (not failures and "unknown" in truth)
    return "right" if right else "wrong" if read - {"unknown"} else "nothing"


def main():
    sys.path.insert(0, sys.argv[1])
    from nvidia_resiliency_ext.attribution.restart_agent import RestartAgent, RestartAgentRequest, RestartAgentRuntime

    runtime = RestartAgentRuntime(RestartAgent())  # no evidence_extractor: no model
    for corpus in ("public", "lab"):
        tally, ranks, seconds, cases = Counter(), Counter(), 0.0, 0
        for case in map(json.loads, open(FAILURES / corpus / "truth.jsonl")):
            if case.get("evidence_in_log") is False:
                continue
            file, truth = case.get("file") or case["log"], set((case.get("class") or LAB[case["fault"]]).split())
            start = time.perf_counter()
            bundle = runtime.analyze_one(RestartAgentRequest(log_path=str(FAILURES / corpus / file))).bundle
            seconds, cases = seconds + time.perf_counter() - start, cases + 1
            primary = bundle.deterministic_primary_candidate
            found = [primary] if primary else []
            verdicts = [verdict(found, truth, by_name), verdict(found, truth, by_line), verdict(found + list(bundle.registry_matches), truth, by_line)]
            tally.update(zip(("name", "line", "anywhere"), verdicts))
            if corpus == "lab" and case["fault"] != "cancel":  # rank 0 ran on node1, and so on
                number = int(case["node"][4:])
                named = bool(primary) and primary.rank == str(number - 1)
                ranks.update(all=1, rank=named, either=named or (bool(primary) and f"[10.79.0.{number}]" in primary.quote))
            if "-v" in sys.argv:
                print(file, *sorted(truth), *verdicts, primary and (primary.failure_class, primary.line, primary.quote[-150:]))
        for way in ("name", "line", "anywhere"):
            print(f"{corpus}, by {way}: " + ", ".join(f"{tally[way, kind]} {kind}" for kind in ("right", "wrong", "nothing")))
        print(f"{corpus}: {cases} cases, {seconds:.2f} s")
    print("lab: of {all} faults on one node, {rank} with its rank, {either} with that or its address in the line".format(**ranks))


main()

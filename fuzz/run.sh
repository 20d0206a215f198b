#!/usr/bin/env bash
# Builds the fuzz targets with coverage and runs each for SECONDS (60), seven at a time, from the kept corpus and the fixtures:
#
#   fuzz/run.sh [SECONDS [TARGET...]]     0 builds them, and runs none
#
# TIMEOUT=60 gives an input a minute, on a busy machine. Ends with 1 when a target fails; what made it fail then lies in target/fuzz/artifacts. With KEEP=1 the corpus is reduced to what
# adds coverage, and kept in fuzz/corpus.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-60}; shift || true
timeout=${TIMEOUT:-10}  # seconds that one input may take: more where other work takes the cores
all=(record plan baseline hostlist topology fabric nccl elf words frames world ticket machine autopsy)
targets=("${@:-${all[@]}}"); [ $# -gt 0 ] || targets=("${all[@]}")
out=$PWD/target/fuzz; mkdir -p "$out/artifacts" "$out/log"
# What cargo-fuzz passes, but for what needs a nightly compiler.
RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
  -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares" \
  CARGO_TARGET_DIR=$out cargo build --quiet --release --manifest-path fuzz/Cargo.toml --target "$(rustc -vV | sed -n 's/host: //p')"
bin=$(ls "$out"/*/release/gonogo-fuzz)
[ "$seconds" != 0 ] || exit 0

seeds() { # TARGET: inputs that are there anyway
  local to=$out/seeds/$1 f; rm -rf "$to"; mkdir -p "$to"
  case $1 in
    record) for f in tests/fixtures/records/*.jsonl; do head -c 60000 "$f" >"$to/$(basename "$f")"; done ;;
    plan | baseline) cp tests/fixtures/plans/*.toml src/baseline/*.toml "$to" ;;
    fabric | topology) find tests/fixtures -path '*ib*' -type f -size -100k -exec cp --backup=numbered {} "$to" \; ;;
    nccl) find tests/fixtures -path '*nccl*' -type f -size -100k -exec cp --backup=numbered {} "$to" \; ;;
    elf) cp /bin/true "$to" ;;
    frames) sed -n 2,40p tests/fixtures/records/go.jsonl | split -l 1 - "$to/" ;;
    machine) printf 'proc/cpuinfo\nprocessor : 0\nflags : avx2\n\0proc/self/mountinfo\n1 2 0:1 / / rw - ext4 /dev/sda rw\n\0sys/devices/system/cpu/online\n0-3' >"$to/machine" ;;
    autopsy) for f in tests/fixtures/failures/public/0[0-4]*.log; do { printf '\0'; cat "$f"; } >"$to/$(basename "$f")"; done
      for f in tests/fixtures/failures/recorder/*; do { printf '\1'; cat "$f"; } >"$to/$(basename "$f")"; done
      for f in tests/fixtures/failures/ras/*; do { printf '\2'; cat "$f"; } >"$to/$(basename "$f")"; done ;;
    hostlist) echo -n 'node[001-004,7],r[1-2]n[1-2]' >"$to/list" ;;
    world) printf 'SLURM_STEP_ID=0\nSLURM_PROCID=1\nSLURM_NTASKS=4\nSLURM_LOCALID=0\nSLURM_STEP_NODELIST=n[1-4]\nSLURM_STEP_TASKS_PER_NODE=1(x4)' >"$to/slurm" ;;
  esac
}

one() { # TARGET
  mkdir -p "$out/corpus/$1" "fuzz/corpus/$1"; seeds "$1"
  GONOGO_FUZZ=$1 "$bin" -max_total_time="$seconds" -timeout="$timeout" -rss_limit_mb=2048 -max_len=65536 -print_final_stats=1 \
    -artifact_prefix="$out/artifacts/$1-" "$out/corpus/$1" "fuzz/corpus/$1" "$out/seeds/$1" >"$out/log/$1" 2>&1 || { echo "$1: FAILED"; tail -n 25 "$out/log/$1" | cut -c1-200; return 1; }
  printf '%-9s %9s runs, coverage %s, corpus %s\n' "$1" "$(sed -n 's/stat::number_of_executed_units: //p' "$out/log/$1")" \
    "$(grep -ao 'cov: [0-9]*' "$out/log/$1" | tail -1 | cut -c6-)" "$(ls "$out/corpus/$1" | wc -l)"
  [ -z "${KEEP:-}" ] || { rm -rf "$out/kept"; mkdir -p "$out/kept"; GONOGO_FUZZ=$1 "$bin" -merge=1 "$out/kept" "fuzz/corpus/$1" "$out/corpus/$1" "$out/seeds/$1" >/dev/null 2>&1
    find "$out/kept" -type f -size -4k | sort | head -n 100 | xargs -r cp -t "fuzz/corpus/$1"; }
}

failed=0
for ((i = 0; i < ${#targets[@]}; i += 7)); do
  pids=()
  for t in "${targets[@]:i:7}"; do one "$t" & pids+=($!); done
  for p in "${pids[@]}"; do wait "$p" || failed=1; done
done
rm -rf /dev/shm/gonogo-fuzz-*
exit $failed

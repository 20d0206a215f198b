#!/bin/sh
# Slurm's Prolog or Epilog: five seconds for a node, before each job and after it.
#
#   slurm.conf:  Prolog=/etc/slurm/prolog.d/health.sh      or  Epilog=...
#
# A node that is proven bad (exit 1) is drained by Slurm and the job goes elsewhere. What is not proven (HOLD), or a
# gonogo that is not installed, keeps no node from its work. Records stay in LOG for a week.
gonogo=${GONOGO:-/usr/local/bin/gonogo}
log=${GONOGO_HEALTH_LOG:-/var/log/gonogo}
[ -x "$gonogo" ] && mkdir -p "$log" || exit 0
find "$log" -mindepth 1 -maxdepth 1 -mtime +7 -exec rm -rf {} + 2>/dev/null
record=$log/$(date +%Y%m%d-%H%M%S)-job-${SLURM_JOB_ID:-none}
timeout -k 1 10 "$gonogo" check --alone --quiet --budget 4s --only environment,gemm,memory --out "$record" >"$record.txt" 2>&1
verdict=$?
if [ $verdict = 1 ]; then
  head -n 12 "$record.txt" >&2
  exit 1
fi
exit 0

#!/bin/sh
# Slurm's Prolog or Epilog: five seconds for a node, before each job and after it.
#
#   slurm.conf:  Prolog=/etc/slurm/prolog.d/health.sh      or  Epilog=...
#
# A node that is not proven well is drained by Slurm, and the job goes elsewhere; GONOGO_UNPROVEN=ok lets what is not proven (HOLD, a gonogo
# that is not installed or did not end) pass, and drains for what is proven bad alone. Records stay in LOG for a week.
gonogo=${GONOGO:-/usr/local/bin/gonogo}
log=${GONOGO_HEALTH_LOG:-/var/log/gonogo}
unproven() {
  [ "${GONOGO_UNPROVEN:-}" = ok ] && exit 0
  echo "$1" >&2
  exit 1
}
[ -x "$gonogo" ] && mkdir -p "$log" || unproven "no $gonogo, or no $log: this node is not proven"
find "$log" -mindepth 1 -maxdepth 1 -mtime +7 -exec rm -rf {} + 2>/dev/null
record=$log/$(date +%Y%m%d-%H%M%S)-job-${SLURM_JOB_ID:-none}
timeout -k 1 10 "$gonogo" check --alone --quiet --budget 4s --only environment,gemm,memory --out "$record" >"$record.txt" 2>&1
verdict=$?
if [ $verdict = 1 ]; then
  head -n 12 "$record.txt" >&2
  exit 1
fi
[ $verdict = 0 ] || unproven "gonogo ended with $verdict: this node is not proven; $record.txt"

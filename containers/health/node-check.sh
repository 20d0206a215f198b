#!/bin/sh
# One node, by itself, in 15 seconds: the check of a restart loop, of a prolog, of an init container. Fails closed: only GO is 0.
#
#   node-check.sh [FLAGS OF gonogo check]     # such as --plan run.toml, --path /mnt/checkpoints
#
# Exit code: 0 the node is well; 1 it is proven bad; 2 it is not proven well (HOLD, a tool that failed, hung or is not there).
# GONOGO is the binary, GONOGO_HEALTH_LOG where records stay for a week, GONOGO_HEALTH_SECONDS how long it may take.
gonogo=${GONOGO:-$(command -v gonogo || echo /usr/local/bin/gonogo)}
log=${GONOGO_HEALTH_LOG:-/var/log/gonogo}
[ -x "$gonogo" ] || { echo "node-check: no $gonogo: this node is not proven; install gonogo, or name it in GONOGO" >&2; exit 2; }
mkdir -p "$log" || { echo "node-check: $log cannot be made; name another directory in GONOGO_HEALTH_LOG" >&2; exit 2; }
find "$log" -mindepth 1 -maxdepth 1 -name 'node-*' -mtime +7 -exec rm -rf {} + 2>/dev/null
record=$(mktemp -d "$log/node-$(date +%Y%m%d-%H%M%S)-XXXXXX") || exit 2
timeout -k 5 "${GONOGO_HEALTH_SECONDS:-60}" "$gonogo" check --tier node --quiet --out "$record/record" "$@" >"$record/report.txt" 2>&1
verdict=$?
case $verdict in
  0) ;;
  1) ;;
  124 | 137) echo "node-check: gonogo did not end within ${GONOGO_HEALTH_SECONDS:-60} s" >&2; verdict=2 ;;
  *) verdict=2 ;;
esac
[ $verdict = 0 ] || { head -n 12 "$record/report.txt" >&2; echo "node-check: all of it in $record/report.txt" >&2; }
exit $verdict

#!/bin/sh
# Starts a launcher on this node only when the node is well, and again after it failed, up to RESTARTS (3) times:
#
#   restart-loop.sh torchrun --nnodes=... --rdzv-backend=c10d ... train.py
#
# A node that is not well takes no part any more: it ends with the check's code, and the scheduler gives another.
here=$(dirname "$0") left=${RESTARTS:-3}
while :; do
  "${GONOGO_NODE_CHECK:-$here/node-check.sh}" ${GONOGO_FLAGS:-} || { code=$?; echo "restart-loop: this node is left out" >&2; exit "$code"; }
  "$@" && exit 0
  code=$?
  [ "$left" -gt 0 ] || { echo "restart-loop: no restart is left" >&2; exit "$code"; }
  left=$((left - 1))
  echo "restart-loop: it ended with $code; the node is checked before it starts again, $left more to come" >&2
done

#!/bin/sh
# node-problem-detector's custom plugin: 0 is well, 1 is a problem, anything else is unknown and changes no condition. Fails closed: what
# is not proven well is a problem. The first line goes into the node's condition.
said=$("${GONOGO_NODE_CHECK:-/usr/local/bin/node-check.sh}" "$@" 2>&1) && { echo "gonogo check --tier node: GO"; exit 0; }
printf '%s\n' "${said:-node-check.sh said nothing}" | head -n 1
exit 1

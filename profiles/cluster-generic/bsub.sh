#!/bin/sh
# bsub says "Job <123> is submitted to queue <cpu>."; Snakemake wants the number alone.
set -eu
answer=$(bsub "$@")
printf '%s\n' "$answer" | sed -n 's/^Job <\([0-9]*\)>.*/\1/p'

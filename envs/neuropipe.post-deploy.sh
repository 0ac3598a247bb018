#!/usr/bin/env bash
# Run by Snakemake inside the new environment, in the folder of the Snakefile.
set -euo pipefail
pip install -r requirements.lock
pip install --no-deps -e .

#!/usr/bin/env bash
# What a GPU can do with this checkout, in OUT/gpu.json and OUT/gpu.md: tests, costs, training throughput. At most eight minutes; downloads nothing.
#   scripts/gpu_check.sh OUT [--wheels FOLDER] [--deadline SECONDS] [--device cpu --small]
# PYTHON=... chooses the interpreter. It needs torch; other packages may lie as wheels in FOLDER.
set -euo pipefail
scripts=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
exec "${PYTHON:-python3}" "$scripts/gpu_check.py" "$@"

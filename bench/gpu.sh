#!/bin/sh
# What this program does on one GPU, in at most eight minutes and without a download: bench/gpu.sh [--output FOLDER]
# See bench/gpu.py. PYTHON names the interpreter; the repository's own is taken where there is one.
set -eu
cd "$(dirname "$0")/.."
[ -n "${PYTHON:-}" ] || { [ -x .venv/bin/python ] && PYTHON=.venv/bin/python || PYTHON=python3; }
PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" exec "$PYTHON" bench/gpu.py "$@"

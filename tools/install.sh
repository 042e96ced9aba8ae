#!/bin/sh
# Creates the virtual environment and installs Secateur with its test and DeepSpeed extras.
#
# Torch comes first and on its own: with a GPU the ordinary build, without one a CPU build where an index offers it
# (a plain install would pull gigabytes of CUDA libraries that nothing here could use).
set -eu
: "${PYTHON:=python3}" "${VENV:=.venv}" "${TORCH_INDEX:=}"
TORCH_VERSION=$(sed -n 's/^torch==//p' constraints-cpu.txt)

"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "error: Secateur needs Python 3.11 or newer; say which with PYTHON=python3.11" >&2
    exit 1
}
[ -x "$VENV/bin/python" ] || "$PYTHON" -m venv "$VENV"
# Quiet unless it fails; PIP_QUIET=0 shows all of it.
pip() { PIP_QUIET="${PIP_QUIET:-2}" "$VENV/bin/python" -m pip --disable-pip-version-check "$@"; }

has_torch() { "$VENV/bin/python" -c "import torch; assert torch.__version__.split('+')[0] == '$TORCH_VERSION'" 2>/dev/null; }

has_torch || echo "installing torch $TORCH_VERSION into $VENV (minutes)"
if has_torch; then
    echo "torch $TORCH_VERSION is installed"
elif command -v nvidia-smi >/dev/null 2>&1; then
    pip install "torch==$TORCH_VERSION"
else
    # CPU builds carry a local version. --no-deps: their other needs come from the configured index, with all the rest.
    pip install --no-deps ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "torch==$TORCH_VERSION+cpu" 2>/dev/null || {
        echo "no CPU build of torch $TORCH_VERSION was found; taking the ordinary one with its CUDA libraries" >&2
        echo "(gigabytes; TORCH_INDEX=URL names an index that offers CPU builds)" >&2
        pip install "torch==$TORCH_VERSION"
    }
fi
CONSTRAINTS="-c constraints-cpu.txt"
command -v nvidia-smi >/dev/null 2>&1 && CONSTRAINTS=""
echo "installing Secateur (minutes) with its test and DeepSpeed extras into $VENV"
# shellcheck disable=SC2086
pip install $CONSTRAINTS -e ".[test,deepspeed,gguf]"

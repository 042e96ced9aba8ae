# `make demo` and `make test` do all their set-up; a second run installs nothing again.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SEED ?= 0
OUT ?= outputs/demo$(if $(filter-out 0,$(SEED)),-seed-$(SEED))
JUDGE ?= linear_own_states
CONTROL ?= 0
SLOW ?= 0
# URL of a package index that offers CPU builds of torch, if the configured one does not.
TORCH_INDEX ?=
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM := false
# The launcher and DeepSpeed look for `accelerate` and `ninja` on the path.
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: demo test lint install clean

demo: $(VENV)/.installed
	$(BIN)/python eval/demo.py --output_dir $(OUT) --seed $(SEED) --judge $(JUDGE) --control $(CONTROL)

test: $(VENV)/.installed
	$(BIN)/python -m pytest $(if $(filter 1,$(SLOW)),--slow) $(ARGS)

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints-cpu.txt tools/install.sh
	PYTHON="$(PYTHON)" VENV="$(VENV)" TORCH_INDEX="$(TORCH_INDEX)" sh tools/install.sh
	touch $@

clean:
	rm -rf $(VENV) outputs

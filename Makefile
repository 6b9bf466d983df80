# Everything runs in .venv, which the first target that needs it makes.
# Needed on the machine: make, Python 3.11 or later with venv.

PYTHON ?= $(firstword $(foreach p,python3 python3.14 python3.13 python3.12 python3.11,\
	$(shell command -v $(p) >/dev/null && $(p) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	2>/dev/null && echo $(p))))
BIN := .venv/bin
# A stamp is newer than the lists it was made from, so a second run asks pip nothing.
SERVER := .venv/.server
DEV := .venv/.dev
COMPILER := .venv-protos/.installed
CHART := .venv-chart/.installed
PIP_FLAGS := --quiet --disable-pip-version-check
LOCK := $(BIN)/uv pip compile --quiet --generate-hashes --universal --no-header --python-version 3.11

# The tests start hundreds of processes, which compile everything anew if this is set.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo serve chat test lint format protos bench bench-agents bench-failover bench-session bench-retrieval chart image secrets locks clean

help: ## Show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(SERVER) ## Start everything in one process, hold a short conversation, stop
	@$(BIN)/maieutic demo

serve: $(SERVER) ## Start everything in one process and serve on 127.0.0.1:50051
	@$(BIN)/maieutic serve

chat: $(SERVER) ## Talk to a server that `make serve` started
	@$(BIN)/maieutic chat

test: $(DEV) ## Run all tests on real private servers; ARGS="-n 0 -s ..." goes to pytest
	@scripts/ensure_backends
	@$(BIN)/pytest --numprocesses auto --maxprocesses 4 --dist loadscope --no-loadscope-reorder $(ARGS)

lint: $(DEV) $(COMPILER) ## Check style, types, imports, protos and generated code
	@scripts/lint

format: $(DEV) ## Format the code and the protos
	@$(BIN)/ruff format
	@$(BIN)/ruff check --fix
	@$(BIN)/buf format --write protos

protos: $(DEV) $(COMPILER) ## Generate gen/maieutic from protos/
	@$(BIN)/python tools/protos.py write

bench: $(DEV) ## Measure throughput and latency; ARGS="--quick" is short
	@$(BIN)/python -m bench $(ARGS)

bench-agents: $(DEV) ## Measure the agents under load and kills; ARGS="--quick" is short
	@$(BIN)/python -m bench.agents $(ARGS)

bench-failover: $(DEV) ## Kill primaries of the session store under load; ARGS="--quick" is short
	@$(BIN)/python -m bench.failover $(ARGS)

bench-session: $(DEV) ## Measure the session service alone; ARGS="--quick" is short
	@$(BIN)/python -m bench.session $(ARGS)

bench-retrieval: $(DEV) ## Measure searches at an emulator of Pinecone; ARGS="--quick" is short
	@$(BIN)/python -m bench.retrieval $(ARGS)

chart: $(DEV) $(CHART) ## Check the Helm chart and compose.yaml
	@scripts/chart

image: $(CHART) ## Check the Dockerfile, and build the image where a Docker engine answers
	@scripts/image

secrets: $(SERVER) ## Make the secrets of a deployment in deploy/secrets
	@$(BIN)/python tools/deployment_secrets.py

locks: $(DEV) ## Resolve requirements/*.in again; UPGRADE=--upgrade moves to newer versions
	@$(LOCK) $(UPGRADE) requirements/server.in --output-file requirements/server.txt
	@$(LOCK) $(UPGRADE) requirements/dev.in --output-file requirements/dev.txt
	@$(LOCK) $(UPGRADE) requirements/protos.in --output-file requirements/protos.txt
	@$(LOCK) $(UPGRADE) requirements/chart.in --output-file requirements/chart.txt
	@$(LOCK) $(UPGRADE) --no-deps requirements/helm.in --output-file requirements/helm.txt

clean: ## Remove the venvs and caches
	rm -rf .venv .venv-protos .venv-chart .cache .import_linter_cache .hypothesis dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	@$(if $(PYTHON),,$(error Python 3.11 or later is needed))
	$(PYTHON) -m venv .venv

$(SERVER): requirements/server.txt pyproject.toml | .venv/bin/python
	@echo "Installing the server's packages ..."
	@$(BIN)/pip install $(PIP_FLAGS) --require-hashes --only-binary :all: -r requirements/server.txt
	@$(BIN)/pip install $(PIP_FLAGS) --no-deps --no-build-isolation --editable .
	@touch $@

$(DEV): requirements/dev.txt $(SERVER)
	@echo "Installing the tools for tests and lint ..."
	@$(BIN)/pip install $(PIP_FLAGS) --require-hashes --only-binary :all: -r requirements/dev.txt
	@touch $@

$(COMPILER): requirements/protos.txt $(SERVER)
	@echo "Installing the proto compiler ..."
	@test -x .venv-protos/bin/python || $(BIN)/python -m venv .venv-protos
	@.venv-protos/bin/pip install $(PIP_FLAGS) --require-hashes --only-binary :all: -r requirements/protos.txt
	@touch $@

$(CHART): requirements/chart.txt | .venv/bin/python
	@echo "Installing the checks of the chart ..."
	@test -x .venv-chart/bin/python || $(BIN)/python -m venv .venv-chart
	@.venv-chart/bin/pip install $(PIP_FLAGS) --require-hashes --only-binary :all: -r requirements/chart.txt
	@touch $@

# Everything is installed from package registries into the checkout (.tools, .venv) or the user's cache.
# A fresh machine needs Python >= 3.11, git and make.
SHELL := /bin/bash
PYTHON ?= python3
UV := .tools/bin/uv
RUN := $(UV) run --frozen
export UV_PYTHON_DOWNLOADS := never
export UV_LINK_MODE := copy

.DEFAULT_GOAL := help
.PHONY: help demo test lint bench golden crds cluster-tools kind clean

help: ## what can be done here
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-13s %s\n", $$1, $$2}' Makefile

demo: .venv/ready ## three unequal simulated regions behind one address; breaks them; under a minute
	@$(RUN) aoai-operator demo $(ARGS)

kind: ## a cluster in Docker with the operator, simulated regions and a call; needs docker, kind, kubectl, helm
	@scripts/kind.sh

test: .venv/ready ## unit, golden, property and real-Envoy tests
	@$(RUN) pytest $(ARGS)

lint: .venv/ready ## ruff, mypy strict, import layers, no operator/__init__.py
	@test ! -e operator/__init__.py || { echo "operator/__init__.py would shadow the standard library"; exit 1; }
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy
	$(RUN) lint-imports

bench: .venv/ready ## speed, as ratios against bare Envoy in the same run; writes bench/out
	@$(RUN) python -m bench $(ARGS)

golden: .venv/ready ## rewrite the golden outputs (read the diff before you commit it)
	@$(RUN) pytest --update-golden -q tests/golden tests/cluster/test_chart_renders.py tests/cluster/test_crds.py

crds: .venv/ready ## write crds/*.yaml from the models
	@$(RUN) aoai-operator crds --write crds

cluster-tools: .venv/ready ## build the Kubernetes programs that the cluster tests need (10 to 15 minutes, once)
	@$(RUN) python tests/support/cluster/toolchain.py

clean: ## remove what the targets installed or made
	rm -rf .venv .tools .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache bench/out

$(UV):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python >= 3.11 is needed; set PYTHON=/path/to/python3.11 or later"; exit 1; }
	@echo "installing uv into .tools"
	@$(PYTHON) -m venv .tools && .tools/bin/python -m pip install --quiet --disable-pip-version-check 'uv==0.13.9'

.venv/ready: $(UV) pyproject.toml uv.lock
	@echo "installing the dependencies into .venv"
	@$(UV) sync --frozen --python $(PYTHON)
	@touch $@

# Everything a developer runs. Downloads and built binaries live in a cache outside the checkout.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

CACHE := $(or $(KUBETUNE_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/kubetune)
BOOTSTRAP_PYTHON ?= python3
UV_PIN := $(shell grep ^uv== dev/constraints/build.txt)
UV := $(CACHE)/tools/$(subst ==,-,$(UV_PIN))/bin/uv
export UV_CACHE_DIR ?= $(CACHE)/uv
# Whatever the environment says: without compiled files each process compiles torch anew, for some 15 seconds.
export PYTHONDONTWRITEBYTECODE :=
PY := .venv/bin/python
VENV := .venv/.ready
SOURCES := operator trainer_image dev tests benchmarks examples

# Most tests wait for something, so two at a time (tests/conftest.py says which).
PARALLEL := --numprocesses 2 --dist loadscope --no-loadscope-reorder

.PHONY: help venv check format test test-unit chaos cluster kubeconfig cluster-down demo images constraints crds clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(VENV) ## Create .venv with everything needed to develop

$(UV):
	@echo "Installing uv" >&2
	@$(BOOTSTRAP_PYTHON) -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer with pip is needed: name one by BOOTSTRAP_PYTHON=..." >&2; exit 1; }
	@$(BOOTSTRAP_PYTHON) -m pip install --quiet --root-user-action=ignore --target $(abspath $(@D)/..) '$(UV_PIN)' >&2

$(VENV): pyproject.toml dev/constraints/dev.txt | $(UV)
	@echo "Installing kubetune and its dependencies into .venv (6.3 GB, hard links into $(UV_CACHE_DIR))" >&2
	@[ -x $(PY) ] || $(UV) venv --quiet --python "$$($(BOOTSTRAP_PYTHON) -c 'import sys; print(sys.executable)')" .venv
	@$(UV) pip install --python $(PY) --editable '.[operator,trainer,engine,dev]' --constraints dev/constraints/dev.txt
	@touch $@

check: $(VENV) ## Formatting, lint, types, layers, generated files: under a minute
	@.venv/bin/ruff format --check $(wildcard $(SOURCES))
	@.venv/bin/ruff check $(wildcard $(SOURCES))
	@.venv/bin/mypy
	@.venv/bin/lint-imports
	@$(PY) -m dev.crds --check

format: $(VENV) ## Format the code and mend what lint can mend
	@.venv/bin/ruff format $(wildcard $(SOURCES))
	@.venv/bin/ruff check --fix $(wildcard $(SOURCES))

test: check ## Check, then every test; brings up what the tests need
	@$(PY) -m dev.cluster build && $(PY) -m dev.images build # so that no test waits for them
	@KUBETUNE_REQUIRE_CLUSTER=1 $(PY) -m pytest $(PARALLEL)

test-unit: $(VENV) ## Only the tests that need no cluster
	@$(PY) -m pytest tests/unit

chaos: $(VENV) ## Crash points, API faults and random walks in full: half an hour
	@$(PY) -m dev.cluster build
	@KUBETUNE_REQUIRE_CLUSTER=1 $(PY) -m pytest tests/chaos -m chaos --chaos=long -s

cluster: $(VENV) ## A local Kubernetes with our images and chart, left running
	@$(PY) -m dev.stack up

kubeconfig: $(VENV) ## Print the path of the local cluster's kubeconfig (use make -s)
	@$(PY) -m dev.cluster kubeconfig

cluster-down: $(VENV) ## Stop the local cluster and remove what it made
	@$(PY) -m dev.cluster down

demo: $(VENV) ## Pretrain, fine-tune two adapters, serve both: the whole story on screen
	@$(PY) -m dev.demo

images: $(VENV) ## Build the container images
	@$(PY) -m dev.images build

PIN := $(UV) pip compile --quiet --python-platform linux --python-version 3.11 \
  --no-emit-index-url --no-annotate --no-header pyproject.toml

constraints: | $(UV) ## Pin the dependencies anew (dev/constraints)
	@rm -f dev/constraints/{dev,operator,trainer,engine}.txt
	@$(PIN) --all-extras --output-file dev/constraints/dev.txt
	@$(PIN) --constraints dev/constraints/dev.txt --extra operator --output-file dev/constraints/operator.txt
	@$(PIN) --constraints dev/constraints/dev.txt --extra trainer --output-file dev/constraints/trainer.txt
	@$(PIN) --constraints dev/constraints/dev.txt --extra trainer --extra engine --output-file dev/constraints/engine.txt

crds: $(VENV) ## Generate the CRDs from the API models
	@$(PY) -m dev.crds

clean: ## Remove .venv and tool caches (not the cache outside the checkout)
	@rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis build dist out

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

include versions.env
export

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCE ?= replay
TOPICS ?=
RATE ?= 50
DURATION ?= 0
DATA ?=
ARGS ?=

DEMO_READY := $(VENV)/.demo-installed
DEV_READY := $(VENV)/.dev-installed

##@ Start here

.PHONY: help
help: ## Show this help
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} \
	  /^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: $(DEMO_READY) ## Run the whole platform here; SOURCE TOPICS RATE DURATION DATA
	@$(BIN)/moodstream demo --source "$(SOURCE)" --rate "$(RATE)" --duration "$(DURATION)" \
	  $(if $(TOPICS),--topics "$(TOPICS)") $(if $(DATA),--data "$(DATA)")

.PHONY: demo-clean
demo-clean: $(DEMO_READY) ## Remove what the demo keeps in .moodstream
	@$(BIN)/moodstream clean

.PHONY: setup
setup: $(DEMO_READY) ## Install everything that the demo needs into .venv
	@echo "ready: make demo"

##@ Work on it

.PHONY: check
check: lint types contracts unit ## What needs no running parts: lint, types, contracts, unit tests

.PHONY: test
test: check integration ## Everything: check, then the tests with real Kafka, PostgreSQL and MLflow

.PHONY: lint
lint: $(DEV_READY) ## Style and likely bugs
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

.PHONY: types
types: $(DEV_READY) ## Types, strictly
	@$(BIN)/mypy

.PHONY: contracts
contracts: $(DEV_READY) ## Which part may import which
	@PYTHONPATH=. $(BIN)/lint-imports

.PHONY: unit
unit: $(DEV_READY) ## Unit tests
	@$(BIN)/python -m pytest tests/unit

.PHONY: integration
integration: $(DEV_READY) ## Tests with real parts
	@$(BIN)/python -m pytest tests/integration

.PHONY: bench
bench: $(DEV_READY) ## Measure on real parts; ARGS="--only drain,live,serving,quality"
	@$(BIN)/python -m tests.bench $(ARGS)

.PHONY: docs
docs: $(DEV_READY) ## Write docs/settings.md from the code
	@$(BIN)/python -m docs.reference

.PHONY: format
format: $(DEV_READY) ## Rewrite the code in the project's format
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

.PHONY: requirements
requirements: $(DEV_READY) ## Compile requirements/*.in into hashed *.txt
	@PATH="$(CURDIR)/$(BIN):$$PATH" requirements/compile

.PHONY: clean
clean: ## Remove .venv, caches and what the demo keeps
	@if [[ -x $(BIN)/moodstream ]]; then $(BIN)/moodstream clean; fi
	@rm -rf $(VENV) *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	@find services training tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.uv-installed: requirements/bootstrap.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || \
	  { echo "moodstream needs Python 3.11 to 3.13, $(PYTHON) is $$($(PYTHON) -V 2>&1): make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || \
	  { echo "$(PYTHON) cannot make virtual environments: install its venv package (Debian, Ubuntu: python3-venv)" >&2; exit 1; }
	@echo "making $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/bootstrap.txt
	@touch $@

$(DEMO_READY): $(VENV)/.uv-installed requirements/demo.txt pyproject.toml
	@echo "installing requirements/demo.txt (the first time downloads about 500 MB)"
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements/demo.txt
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $@

$(DEV_READY): $(DEMO_READY) requirements/dev.txt
	@echo "installing requirements/dev.txt"
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements/dev.txt
	@touch $@

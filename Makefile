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

# The cluster: kind (our own, in Docker) or current (kubectl's); see docs/cluster.md.
CLUSTER ?= kind
OPERATORS ?= install
LOADER ?=
PROFILE ?= kind
VALUES ?=
KUBE_CONTEXT ?=
MONITORING ?= false
PURGE ?= false
CLUSTER_ARGS = --target "$(CLUSTER)" $(if $(KUBE_CONTEXT),--context "$(KUBE_CONTEXT)")

DEMO_READY := $(VENV)/.demo-installed
DEV_READY := $(VENV)/.dev-installed
TOOLS_READY := $(VENV)/.tools-installed

##@ Start here

.PHONY: help
help: ## Show this help
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} \
	  /^[a-z0-9-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

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

##@ On Kubernetes

.PHONY: cluster-up
cluster-up: $(DEMO_READY) ## The platform in a cluster; CLUSTER OPERATORS LOADER PROFILE VALUES KUBE_CONTEXT MONITORING
	@$(BIN)/moodstream cluster up $(CLUSTER_ARGS) --operators "$(OPERATORS)" --profile "$(PROFILE)" \
	  $(if $(LOADER),--loader "$(LOADER)") $(if $(VALUES),--values "$(VALUES)") \
	  $(if $(filter true,$(MONITORING)),--monitoring)

.PHONY: cluster-down
cluster-down: $(DEMO_READY) ## Remove it; on CLUSTER=current the namespace too with PURGE=true
	@$(BIN)/moodstream cluster down $(CLUSTER_ARGS) $(if $(filter true,$(PURGE)),--purge)

.PHONY: status
status: $(DEMO_READY) ## One table: parts, lag, rows a minute, model, newest post, addresses
	@$(BIN)/moodstream cluster status $(CLUSTER_ARGS)

.PHONY: logs
logs: $(DEMO_READY) ## What our pods say; ARGS="--component consumer --no-follow"
	@$(BIN)/moodstream cluster logs $(CLUSTER_ARGS) $(ARGS)

.PHONY: doctor
doctor: $(DEMO_READY) ## What is wrong, and how to mend it
	@$(BIN)/moodstream cluster doctor $(CLUSTER_ARGS) --operators "$(OPERATORS)" --profile "$(PROFILE)" \
	  $(if $(VALUES),--values "$(VALUES)")

.PHONY: k9s
k9s: ## k9s with our views and plugins (Shift-D, Shift-P, Shift-R)
	@manifests/k9s/run "$(CLUSTER)" "$(KUBE_CONTEXT)"

.PHONY: images
images: $(DEMO_READY) ## Build our images; their names are printed
	@images/build $(ARGS)

.PHONY: images-push
images-push: $(DEMO_READY) ## Build our images for amd64 and arm64 and push them; REGISTRY
	@images/build --push "$(or $(REGISTRY),$(error say where to: make images-push REGISTRY=registry.example.com/moodstream))"

.PHONY: pin
pin: $(DEMO_READY) ## Look up the digests of all images and write them down; needs a network
	@$(BIN)/python -m services.cluster.pin

.PHONY: e2e
e2e: $(DEV_READY) ## Black-box tests of the cluster that kubectl points at
	@$(BIN)/python -m pytest tests/e2e $(ARGS)

##@ Work on it

.PHONY: check
check: lint types contracts unit ## What needs no running parts: lint, types, contracts, unit tests

.PHONY: test
test: check charts integration ## Everything: check, the charts, then the tests with real Kafka, PostgreSQL and MLflow

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

.PHONY: charts
charts: $(TOOLS_READY) ## The Helm charts: rendered, scanned, taken by a real API server
	@$(BIN)/python -m pytest tests/charts

.PHONY: integration
integration: $(DEV_READY) ## Tests with real parts
	@$(BIN)/python -m pytest tests/integration tests/hostile -n 2 --dist loadfile

.PHONY: bench
bench: $(DEV_READY) ## Measure on real parts; ARGS="--only drain,live,serving,peers,limits,growth"
	@$(BIN)/python -m tests.bench $(ARGS)

.PHONY: faults
faults: $(DEV_READY) ## Break every part and see that nothing is lost; ARGS="--soak 600"
	@$(BIN)/python -m tests.faults $(ARGS)

.PHONY: docs
docs: $(DEV_READY) ## Write the reference pages, the architecture document and the slides from their sources
	@$(BIN)/python -m docs.reference
	@$(BIN)/python -m docs.charts
	@$(BIN)/python -m docs.views
	@$(BIN)/python -m docs.architecture

.PHONY: screenshots
screenshots: $(DEV_READY) ## Take the dashboard's pictures for the docs; needs Chromium
	@$(BIN)/python -m docs.screenshots

.PHONY: video
video: $(DEV_READY) ## Record docs/demo.webm of a demo, and of the cluster that kubectl points at; needs Chromium and ffmpeg; ARGS="--only demo"
	@$(BIN)/python -m docs.video $(ARGS)

.PHONY: format
format: $(DEV_READY) ## Rewrite the code in the project's format
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

.PHONY: requirements
requirements: $(DEV_READY) ## Compile requirements/*.in into hashed *.txt
	@PATH="$(CURDIR)/$(BIN):$$PATH" requirements/compile

.PHONY: sbom
sbom: $(VENV)/.uv-installed ## Write each image's bill of materials (CycloneDX) to build/sbom; needs a network
	@PATH="$(CURDIR)/$(BIN):$$PATH" requirements/examine sbom

.PHONY: audit
audit: $(VENV)/.uv-installed ## Report known vulnerabilities of each image's packages; needs a network
	@PATH="$(CURDIR)/$(BIN):$$PATH" requirements/examine audit

.PHONY: release-check
release-check: $(DEV_READY) ## Say whether the tree can be released; VERSION; needs a network
	@$(BIN)/python .github/release_check.py $(VERSION)

.PHONY: clean
clean: ## Remove .venv, caches and what the demo keeps
	@if [[ -x $(BIN)/moodstream ]]; then $(BIN)/moodstream clean; fi
	@rm -rf services/dashboard/static/lib $(VENV) *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
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

$(DEMO_READY): $(VENV)/.uv-installed requirements/demo.txt pyproject.toml versions.env
	@echo "installing requirements/demo.txt (the first time downloads about 500 MB)"
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements/demo.txt
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	@$(BIN)/python -m services.local.libraries
	@touch $@

$(DEV_READY): $(DEMO_READY) requirements/dev.txt
	@echo "installing requirements/dev.txt"
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements/dev.txt
	@touch $@

$(TOOLS_READY): $(DEV_READY) requirements/checkov.txt versions.env
	@echo "installing checkov and kube-score"
	@$(BIN)/uv venv --quiet --allow-existing --python $(BIN)/python $(VENV)/checkov
	@$(BIN)/uv pip install --quiet --python $(VENV)/checkov/bin/python --require-hashes -r requirements/checkov.txt
	@if command -v go >/dev/null; then GOBIN="$(CURDIR)/$(BIN)" go install github.com/zegl/kube-score/cmd/kube-score@$(KUBE_SCORE_VERSION); \
	  else echo "without Go there is no kube-score: its test is skipped"; fi
	@touch $@

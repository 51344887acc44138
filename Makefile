# Each target works alone, in a fresh clone, with nothing but Python 3.10 or newer.
#   make demo PYTHON=python3.12            another interpreter
#   make demo TORCH_INDEX=URL              take torch from another index (another CUDA or a CPU-only build)
#   make demo VENV=/path                   another virtual environment
PYTHON ?= python3
VENV ?= .venv
DEMO ?= demo
PORT ?= 7860
TORCH_INDEX ?=
VERSIONS ?= oldest newest

BIN := $(VENV)/bin
TORCH := $(shell sed -n 's/^\(torch==[^ ;]*\).*/\1/p' constraints.txt)
PIP := $(BIN)/python -m pip --disable-pip-version-check
SOURCES := pyproject.toml constraints.txt

.PHONY: help install install-dev demo space docs test test-slow test-fault test-cluster test-floors research sbom audit lint format clean
.DEFAULT_GOAL := help

help:
	@echo "make demo       install, put the bundled checkpoints into the Hub cache, run them on real frames into $(DEMO)/"
	@echo "make space      the Gradio demo on this machine (make space PORT=7860)"
	@echo "make test       formatter, linter, types, imports, then the tests (make test PYTEST_ARGS='-k flow' for some)"
	@echo "make test-slow  the slow tests: the installed wheel, the notebooks, long trainings"
	@echo "make test-fault the tests that kill trainings and damage files again and again (docs/reliability.md)"
	@echo "make test-cluster the tests of sharded and elastic trainings, and of predictions on two Ray nodes"
	@echo "make research   the tests of scripts/research"
	@echo "make test-floors  the tests with the oldest and the newest versions that pyproject.toml allows, in .floors/ (half an hour a set)"
	@echo "make lint       formatter, linter, types, imports and workflows only"
	@echo "make sbom       what a release was tested with, as CycloneDX, in sbom/;  make audit: its known vulnerabilities (asks PyPI)"
	@echo "make format     let ruff format and fix"
	@echo "make docs       the documentation as a site in site/"
	@echo "make install    only the virtual environment in $(VENV)/"
	@echo "make clean      remove $(VENV)/, .floors/, .audit/, sbom/, $(DEMO)/, site/, builds and caches (the Hub cache is left alone)"

# Stamps: a target's work is done again only when what it is made from has changed.
$(VENV)/.stamp-venv:
	@echo "== virtual environment in $(VENV)"
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 10) else "Python 3.10 or newer is needed, this is " + sys.version)'
	$(PYTHON) -m venv $(VENV)
	@touch $@

# torch first and by itself: it is by far the largest, and may come from an index of its own.
$(VENV)/.stamp-install: $(VENV)/.stamp-venv $(SOURCES)
	@echo "== $(TORCH), winwin-hf and what they need (minutes, the first time)"
	$(PIP) install $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$(TORCH)"
	$(PIP) install -c constraints.txt -e .
	@touch $@

$(VENV)/.stamp-dev: $(VENV)/.stamp-install
	@echo "== test and lint tools"
	$(PIP) install -c constraints.txt -e ".[test,dev]"
	@touch $@

install: $(VENV)/.stamp-install
install-dev: $(VENV)/.stamp-dev

demo: $(VENV)/.stamp-install
	$(BIN)/winwin checkpoints install
	$(BIN)/winwin demo --output $(DEMO)
	@echo "== to use it in this shell: source $(VENV)/bin/activate"

$(VENV)/.stamp-space: $(VENV)/.stamp-install
	$(PIP) install -c constraints.txt -e ".[demo]"
	@touch $@

$(VENV)/.stamp-docs: $(VENV)/.stamp-install
	$(PIP) install -c constraints.txt -e ".[docs]"
	@touch $@

space: $(VENV)/.stamp-space
	$(BIN)/winwin checkpoints install
	$(BIN)/python spaces/winwin-demo/app.py --port $(PORT)

docs: $(VENV)/.stamp-docs
	$(BIN)/python scripts/make_docs.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

lint: $(VENV)/.stamp-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/[!c]*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-issue-config .github/ISSUE_TEMPLATE/config.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.citation-file-format CITATION.cff

# One process a core, a file of tests always in one: what its tests share is made once.
PYTEST := $(BIN)/python -m pytest -n auto --dist loadfile

test: lint
	$(PYTEST) $(PYTEST_ARGS)

test-slow: $(VENV)/.stamp-dev
	$(BIN)/python -m pytest -m slow $(PYTEST_ARGS)

test-fault: $(VENV)/.stamp-dev
	$(BIN)/python -m pytest -m fault $(PYTEST_ARGS)

$(VENV)/.stamp-cluster: $(VENV)/.stamp-dev
	$(PIP) install -c constraints.txt -e ".[test-cluster]"
	@touch $@

test-cluster: $(VENV)/.stamp-cluster
	$(BIN)/python -m pytest -m cluster $(PYTEST_ARGS)

# Environments of its own. make test-floors PYTHON=python3.10 VERSIONS=oldest: another interpreter, one of the sets
test-floors:
	$(PYTHON) scripts/test_floors.py $(VERSIONS) $(if $(TORCH_INDEX),--torch-index $(TORCH_INDEX)) --pytest-args="$(PYTEST_ARGS)"

research: $(VENV)/.stamp-dev
	$(PYTEST) -m research $(PYTEST_ARGS)

# Tools in an environment of their own: they would change what is tested.
.audit/.stamp:
	$(PYTHON) -m venv .audit
	.audit/bin/python -m pip --disable-pip-version-check install -q "cyclonedx-bom>=7,<8" "pip-audit>=2.9,<3"
	@touch $@

sbom: .audit/.stamp
	mkdir -p sbom
	.audit/bin/cyclonedx-py requirements constraints.txt --pyproject pyproject.toml --mc-type library --output-reproducible \
	  -o sbom/winwin-hf-$(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml).cdx.json

audit: .audit/.stamp
	.audit/bin/pip-audit -r constraints.txt --no-deps --disable-pip --strict

format: $(VENV)/.stamp-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) .floors .audit sbom $(DEMO) site build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

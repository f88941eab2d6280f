# Every target makes .venv first if it is missing; `make PYTHON=python3.12 ...` chooses the interpreter.
# What follows `##` after a target is its line in `make help`, which a bare `make` runs.
PYTHON ?= python3
VENV := .venv
LOWEST := .venv-lowest
LOWEST_TESTS := tests/core tests/config tests/data tests/models  # where other packages do the work
CLOTHING ?= clothing  # github.com/alexeygrigorev/clothing-dataset-small, CC0
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help demo test test-integration simulations fuzz chaos test-lowest check bench docs site clean

help: ## print these lines
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.installed ## pre-train and probe on generated data, print the table: 2 minutes on 2 CPU cores
	$(BIN)/maskbench run --strategy gmml

test: $(VENV)/.installed-test ## run the tests, two at a time, each on one core: 8 minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal --benchmark-disable --durations=15 \
		-m "not integration and not simulation"

test-integration: $(VENV)/.installed-test ## run the tests with clusters, browsers and killed processes
	$(BIN)/python -m pytest -m integration --durations=15

test-lowest: ## run tests with the lowest versions that pyproject.toml allows, in .venv-lowest
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet uv
	VIRTUAL_ENV=$(LOWEST) $(LOWEST)/bin/uv pip install --quiet --resolution lowest-direct --editable .
	VIRTUAL_ENV=$(LOWEST) $(LOWEST)/bin/uv pip freeze --exclude-editable > $(LOWEST)/lowest.txt
	VIRTUAL_ENV=$(LOWEST) $(LOWEST)/bin/uv pip install --quiet --constraint $(LOWEST)/lowest.txt \
		pytest pytest-benchmark hypothesis scikit-learn
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -W default -m "not integration and not simulation" $(LOWEST_TESTS)

simulations: $(VENV)/.installed-test ## hold every claim of a table by 2,000 simulated experiments of 36 kinds: minutes (docs/statistics.md)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m simulation

fuzz: $(VENV)/.installed-test ## send every hostile input through its door, and print which ended otherwise than it should
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz

chaos: $(VENV)/.installed-test ## kill runs at random and at every disk operation: half an hour (docs/reliability.md)
	$(BIN)/python -m tests.helpers.chaos

check: $(VENV)/.installed-dev ## check style, types, layers and spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

bench: $(VENV)/.installed-test ## measure what is bound in seconds, on an idle machine (benchmarks/README.md)
	$(BIN)/python -m pytest benchmarks --benchmark-only

docs: $(VENV)/.installed ## write the strategies' pages and the gallery again, from the code
	$(BIN)/python -m maskbench.catalog.markdown
	$(BIN)/python -m maskbench.catalog.markdown --pictures
	$(BIN)/maskbench show --all --dataset $(CLOTHING) --img-size 224 --patch-size 16 --output docs/gallery.webp

site: $(VENV)/.installed-docs ## build the documentation, site/index.html: no broken link, no missing reference
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean: ## remove .venv and everything that was built
	rm -rf $(VENV) $(LOWEST) build dist site *.egg-info results/quick

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.installed-test: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable ".[test]"
	touch $@ $(VENV)/.installed

$(VENV)/.installed-dev: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@ $(VENV)/.installed $(VENV)/.installed-test $(VENV)/.installed-docs

$(VENV)/.installed-docs: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable ".[docs]"
	touch $@ $(VENV)/.installed

# Every target makes .venv first if it is missing; `make PYTHON=python3.12 ...` chooses the interpreter.
PYTHON ?= python3
VENV := .venv
CLOTHING ?= clothing  # github.com/alexeygrigorev/clothing-dataset-small, CC0
BIN := $(VENV)/bin

.PHONY: demo test test-integration chaos check bench docs clean

demo: $(VENV)/.installed
	$(BIN)/maskbench run --strategy gmml

test: $(VENV)/.installed-test  # two at a time, each on one core
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal --benchmark-disable -m "not integration"

test-integration: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m integration

chaos: $(VENV)/.installed-test  # half an hour and more; what it found is in docs/reliability.md
	$(BIN)/python -m tests.helpers.chaos

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.installed-test
	$(BIN)/python -m pytest benchmarks --benchmark-only

docs: $(VENV)/.installed  # docs/strategies.md and the gallery; timings come from `maskbench bench strategies --json`
	$(BIN)/python -m maskbench.catalog.markdown
	$(BIN)/maskbench show --all --dataset $(CLOTHING) --img-size 224 --patch-size 16 --output docs/gallery.webp

clean:
	rm -rf $(VENV) build dist *.egg-info results/quick

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
	touch $@ $(VENV)/.installed $(VENV)/.installed-test

# One environment, made on first use; everything after that works offline.
VENV   ?= .venv
PYTHON ?= python3
BIN    := $(VENV)/bin

.PHONY: test lint quickstart docs bench clean

test: $(VENV)/ready  ## the whole suite, by a process a core
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=auto --dist=loadgroup

lint: $(VENV)/ready  ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

quickstart: $(VENV)/ready  ## the embedded digits: from a grid to a leaderboard
	$(BIN)/kdbench run quickstart --workers 2 --results build/quickstart
	$(BIN)/kdbench leaderboard quickstart --results build/quickstart

docs: $(VENV)/ready  ## the pages that are made from the code
	$(BIN)/python -c "from kdbench.benchmark.catalogue import methods_page; print(end=methods_page())" > docs/methods.md

bench: $(VENV)/ready  ## the loop beside the ordinary way of writing it; leave the machine alone meanwhile
	mkdir -p build
	$(BIN)/python -m pytest tests/throughput --benchmark-only --benchmark-json build/bench.json --quiet
	$(BIN)/python -m tests.throughput.ratios build/bench.json

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]' --constraint constraints.txt
	touch $@

clean:
	rm -rf $(VENV) build dist

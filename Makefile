PYTHON ?= python3
# waiting threads sleep: spinning ones cost a busy machine several times the time
export OMP_WAIT_POLICY ?= PASSIVE
BIN = .venv/bin

.PHONY: demo test check golden fuzz

demo: .venv/installed
	$(BIN)/evalkit --home demo-home reproduce digits

test: .venv/installed
	$(BIN)/python -m pytest

fuzz: .venv/installed
	$(BIN)/python tests/fuzz.py --cases 20000

golden: .venv/installed
	$(BIN)/python tests/example_results.py

check: .venv/installed
	$(BIN)/ruff check evalkit tests benchmarks
	$(BIN)/ruff format --check evalkit tests benchmarks
	$(BIN)/mypy

.venv/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

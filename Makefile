# Everything runs in a virtual environment of its own, .venv; nothing is installed outside it.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help demo test bench lint clean

help:
	@echo "make demo   see it work, without an account: simulated JumpCloud -> plugin -> receiver"
	@echo "make test   lint, types and every test"
	@echo "make bench  measure it beside a plain script; tests/bench/README.md has the figures"
	@echo "make clean  remove the virtual environment and the caches"

demo: .venv/runtime
	@$(BIN)/in-jumpcloud demo

test: lint
	$(BIN)/pytest

bench: .venv/dev
	@PYTHONPATH=tests $(BIN)/python -m bench $(OPTIONS)

lint: .venv/dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis

.venv/runtime: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or later is needed; try: make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

.venv/dev: .venv/runtime
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group dev
	@touch $@

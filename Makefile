# Commands for developers and CI. `make demo` and `make test` only need Python 3.11 or later.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# Tests run in two processes, possibly on two cores. With more threads the processes would slow each other down.
ONE_THREAD := TF_NUM_INTRAOP_THREADS=1 OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

PYTEST := $(ONE_THREAD) $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

.PHONY: demo test test-slow test-all test-postgres lint docs clean

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --editable . --group dev
	touch $@

demo: $(INSTALLED)  ## a small search on phantom radiographs, its leaderboard and its report
	$(BIN)/automl-cxr search --study demo
	$(BIN)/automl-cxr leaderboard demo
	$(BIN)/automl-cxr report demo --out demo-report.html
	@echo "Open the report: $(CURDIR)/demo-report.html    Browse the trials: $(BIN)/automl-cxr dashboard"

test: $(INSTALLED)  ## tests; those that need a GPU or real radiographs (AUTOML_CXR_TEST_DATA) are skipped without them
	$(PYTEST) -m 'not postgres and not slow and not long'

test-slow: $(INSTALLED)  ## what CI runs: also the tests that take more than 2.5 seconds each
	$(PYTEST) -m 'not postgres and not long'

test-all: $(INSTALLED)  ## also the tests that take more than 6 seconds each, for example before a release
	$(PYTEST)

test-postgres: $(INSTALLED)  ## the storage tests on a PostgreSQL server, which the tests start (apt-get install postgresql)
	$(BIN)/python -m pytest -m postgres tests/storage

lint: $(INSTALLED)  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(INSTALLED)  ## the documentation site, in site/; warnings are errors
	$(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) site .mypy_cache .pytest_cache .ruff_cache

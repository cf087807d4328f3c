# Everything that a developer or CI does. `make demo` and `make test` need Python 3.11 or later and nothing else.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# Tests run in two processes, on what may be two cores: threads of both would wait for each other.
ONE_THREAD := TF_NUM_INTRAOP_THREADS=1 OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

.PHONY: demo test test-postgres lint docs clean

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --editable . --group dev
	touch $@

demo: $(INSTALLED)  ## a small search on phantom radiographs, its leaderboard and an ensemble
	$(BIN)/automl-cxr search --study demo
	$(BIN)/automl-cxr leaderboard demo
	$(BIN)/automl-cxr ensemble build demo --top 3
	@echo "Look at it with:  $(BIN)/automl-cxr dashboard"

test: $(INSTALLED)  ## every test; those that need a GPU or real radiographs skip themselves, saying so
	$(ONE_THREAD) $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

test-postgres: $(INSTALLED)  ## the storage tests on a PostgreSQL server that they start (apt-get install postgresql)
	$(BIN)/python -m pytest -m postgres tests/storage

lint: $(INSTALLED)  ## style and import rules (ruff, tests/test_imports.py) and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest --quiet tests/test_imports.py

docs: $(INSTALLED)  ## the documentation site, into site/; a warning is an error
	$(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) site .mypy_cache .pytest_cache .ruff_cache

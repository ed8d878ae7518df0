# make run and make test do everything on a fresh machine with Python 3.11 or later, pip and make.
PYTHON ?= python3
BIN := .venv/bin
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadgroup
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt --editable

.PHONY: run test test-fast test-field lint docs install clean

run: .venv/runs ## launch the dissertation space on a local Ray, print its verdicts, write its report
	$(BIN)/sae-study launch dissertation
	$(BIN)/sae-study report dissertation

test: install ## all tests but the field's, in two processes of one thread each
	$(PYTEST) -m "not field"

test-fast: install ## without those that start a Ray or take long; any warning is an error
	$(PYTEST) -W error -m "not ray and not slow"

test-field: install ## situations that need a process of their own: namespaces, small disks, signals (some of them as root alone)
	$(PYTEST) tests/field

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: install ## the API pages, made from the docstrings, in build/api
	$(BIN)/python docs/api.py

install: .venv/tests

.venv/runs: pyproject.toml constraints.txt ## what studies need
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.12 …")'
	$(PYTHON) -m venv .venv
	$(PIP) .
	touch $@

.venv/tests: .venv/runs ## and what tests, linters and the torch engine need
	$(PIP) '.[dev]'
	touch $@

clean:
	rm -rf .venv build *.egg-info .pytest_cache .ruff_cache .mypy_cache

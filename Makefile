# Each target sets up what it needs: an own virtual environment in .venv, dependencies from setup.cfg.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
AT_ONCE := $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)  # tests wait a fifth of their time
unexport PYTHONDONTWRITEBYTECODE  # the tests start many processes: each module is compiled by the first alone

.PHONY: setup demo test test-all lint docs faults gpu check clean

setup: $(READY)

$(READY): setup.cfg pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $(READY)

demo: $(READY)  ## the whole pipeline on drawn images
	$(BIN)/amnet demo

test: $(READY)  ## the default tests, a process a core and one more
	$(BIN)/python -m pytest -n $(strip $(AT_ONCE)) --dist loadfile -m 'not slow'

test-all: $(READY)  ## the slow tests too
	$(BIN)/python -m pytest

lint: $(READY)  ## formatter, linter and types, nothing changed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(READY)  ## the documents as a site in build/docs; any warning is an error
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs build/docs

faults: $(READY)  ## the short fault campaign, under four minutes
	$(BIN)/python -m faults --quick

gpu: $(READY)  ## on a machine with a CUDA device: its tests and measurements, into build/gpu.json
	$(BIN)/python -m bench.gpu

check: $(READY)  ## format, lint, type and test
	$(BIN)/ruff format .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n $(strip $(AT_ONCE)) --dist loadfile -m 'not slow'

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

# Every target does its own set-up in .venv; nothing else needs to be typed first.
PYTHON ?= python3
BIN := .venv/bin
export MPLBACKEND ?= Agg

.PHONY: demo test lint bench clean

demo: .venv/installed
	$(BIN)/python examples/swap_priors.py

# One thread for each of several workers: threads of one process wait for each other where cores are busy.
# Each worker has files of its own until it runs out of them: what the tests of a file share is made once.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal

# Forty minutes on two cores that do nothing else.
bench: .venv/installed
	$(BIN)/python benchmarks/steps.py
	$(BIN)/python benchmarks/anatomy.py
	$(BIN)/python benchmarks/growth.py
	$(BIN)/python benchmarks/fit.py

lint: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

.venv/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "ppl_vae needs Python 3.10 or newer, but '$(PYTHON)' is $$($(PYTHON) -V 2>&1)."; \
	    echo "Name another one: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -m venv .venv || \
	  { echo "Could not make a virtual environment; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@echo "Installing ppl_vae and its dependencies into .venv (a minute or two, once)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@

clean:
	rm -rf .venv runs build *.egg-info

# Every target sets up .venv first; nothing else needs to be typed before.
PYTHON ?= python3
BIN := .venv/bin
# For test-lowest: a version that uv finds or downloads, or the path of an interpreter.
LOWEST_PYTHON ?= $(or $(wildcard $(HOME)/.pyenv/versions/3.10.*/bin/python3.10),3.10)
export MPLBACKEND ?= Agg

.DEFAULT_GOAL := help
.PHONY: help demo test lint coverage test-random test-slow test-lowest docs docs-check gallery bench bench-tables zoo clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | \
	  while IFS="$$(printf '\t')" read -r target text; do printf '  make %-13s %s\n' "$$target" "$$text"; done

demo: .venv/installed ## swap the prior of a VAE on bundled digits: two minutes
	$(BIN)/python examples/swap_priors.py

# One thread for each of several workers: threads of one process wait for each other where cores are busy.
# Each worker has files of its own until it runs out of them: what the tests of a file share is made once.
# Bytecode is written even where the environment says not to: dozens of tests start an interpreter.
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1
XDIST := -n auto --maxprocesses 8 --dist worksteal

test: lint ## ruff, mypy and the tests but the slow ones, as in CI
	$(PYTEST) $(BIN)/python -m pytest $(XDIST) -p no:randomly

coverage: .venv/installed ## the same tests, with branch coverage: the total, and what is not reached
	$(PYTEST) $(BIN)/python -m pytest $(XDIST) -p no:randomly --cov --cov-report=term-missing:skip-covered

test-random: .venv/installed ## the same tests in random order; the seed is printed and repeats it
	$(PYTEST) $(BIN)/python -m pytest $(XDIST)

test-slow: .venv/installed ## the tests marked slow: cross products in full, trainings
	$(PYTEST) $(BIN)/python -m pytest $(XDIST) -p no:randomly -m slow

# Deprecations in old packages, and what old torch says of zuko's splines and its own LBFGS, are not ours to mend.
OLD := -W default::DeprecationWarning -W default::FutureWarning -W "default:torch.searchsorted" -W "default:Converting a tensor"

test-lowest: .venv-lowest/installed ## the tests with the oldest Python and versions that pyproject.toml allows
	$(PYTEST) .venv-lowest/bin/python -m pytest $(XDIST) -p no:randomly $(OLD)

# -W: a warning fails the build. Two pages with cells are run at a time.
docs: .venv/installed-docs ## the documentation site, build/docs/index.html: a few minutes, then only what has changed
	$(BIN)/python -m sphinx -q -j 2 -W --keep-going docs build/docs
	@echo "The site is build/docs/index.html"

docs-check: docs ## its links, and pages in a browser without a window: formulas, search, narrow, dark
	$(PYTEST) $(BIN)/python -m pytest -n0 -p no:randomly -m slow tests/test_site.py

gallery: .venv/installed ## the figures of the gallery anew: ten minutes on two cores
	for example in $(filter-out common,$(basename $(notdir $(wildcard examples/*.py)))); do \
	  OMP_NUM_THREADS=1 $(BIN)/python examples/$$example.py --epochs 40 --out build/gallery/$$example && \
	  cp build/gallery/$$example/$$example.png docs/figures/gallery/ || exit 1; done

bench: .venv/installed ## time the steps and all around them: two hours or more on two idle cores
	$(BIN)/python benchmarks/steps.py
	$(BIN)/python benchmarks/elementwise.py
	$(BIN)/python benchmarks/anatomy.py
	$(BIN)/python benchmarks/growth.py
	$(BIN)/python benchmarks/fit.py
	$(BIN)/python benchmarks/time_to_bound.py
	$(BIN)/python benchmarks/refinement.py
	$(BIN)/python benchmarks/outputs.py --again

bench-tables: .venv/installed ## imputation of tables beside missForest and others: most of a day, resumable
	$(BIN)/python benchmarks/imputation.py
	$(BIN)/python benchmarks/imputation.py --miwae

zoo: .venv/installed ## train the pairs of ppl_vae.zoo again, and write their cards: ten minutes
	$(BIN)/python benchmarks/zoo.py

lint: .venv/installed ## ruff and mypy
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

.venv/installed-docs: pyproject.toml .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	@touch $@

.venv-lowest/installed: pyproject.toml .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv venv --quiet --clear --python $(LOWEST_PYTHON) .venv-lowest
	$(BIN)/uv pip install --quiet --python .venv-lowest --resolution lowest-direct --editable '.[test]'
	@touch $@

clean: ## remove the environments and whatever was built
	rm -rf .venv .venv-lowest runs build *.egg-info .coverage

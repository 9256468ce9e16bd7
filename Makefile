# The five commands of this project. `make demo` and `make test` need Python >= 3.11 and make, nothing else.
PYTHON ?= python3
VENV := .venv
# Engine processes of the demo.
ENGINES ?= 1
BIN := $(VENV)/bin
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: demo test check bench format clean

demo: $(VENV)/.installed-all  ## everything on this machine: service, board, traffic; Ctrl-C ends it
	@$(BIN)/recsys demo --engines $(ENGINES)

test: check  ## every test that this machine can run
	$(BIN)/python -m pytest

check: $(VENV)/.installed-dev  ## format, lint, types, import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

bench: $(VENV)/.installed-dev  ## quick measurements; `recsys bench` has the long ones. Needs what `make demo` left in var/
	$(BIN)/recsys bench router --quick
	$(BIN)/recsys bench freshness
	$(BIN)/recsys bench burst --quick --policies price

format: $(VENV)/.installed-dev  ## write the format that `check` asks for
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## what the demo and the tests leave behind
	rm -rf var .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'

$(VENV)/.installed-all: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[all]'
	@$(BIN)/python -c 'from router.policies import get; get("price")'
	@$(BIN)/python -m kernels.cpu.library || true
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[all]' --group dev
	@$(BIN)/python -c 'from router.policies import get; get("price")'
	@$(BIN)/python -m kernels.cpu.library || true
	@touch $@ $(VENV)/.installed-all

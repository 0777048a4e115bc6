# `make` alone lists what there is. PYTHON=… chooses the interpreter, 3.11 or newer.
PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3.13 python3,$(shell command -v $(name) 2>/dev/null)))
BIN := .venv/bin
STAMP := .venv/.installed
JOBS ?= 2
CONTENT ?=
STYLE ?=
# Several threads in each of several processes cost more than they bring; jobs set their own number.
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow lint format bench clean

help:  ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP)  ## The environment in .venv, with everything that demo, tests and benchmarks need

$(STAMP): pyproject.toml
	@test -n "$(PYTHON)" || { echo "no Python found: install 3.11 or newer, or say make PYTHON=/path/to/python"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "$(PYTHON) is older than 3.11: say make PYTHON=/path/to/python"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --editable '.[dev]'
	@touch $(STAMP)

demo: $(STAMP)  ## From photos and a painting to stylised pictures, through the real service (CONTENT=dir STYLE=file: yours)
	$(BIN)/python -m stylefoundry.demo $(if $(CONTENT),--content "$(CONTENT)") $(if $(STYLE),--style "$(STYLE)")

test: $(STAMP)  ## The tests, on real servers
	$(BIN)/pytest -n $(JOBS) --dist loadfile -m "not slow"

test-slow: $(STAMP)  ## The tests that take minutes each
	$(BIN)/pytest -m slow

lint: $(STAMP)  ## Style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)  ## Put the code into the common form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)  ## Measure against the budgets (benchmarks/README.md)
	$(BIN)/python -m benchmarks

clean:  ## Remove the environment and caches; data of stacks stays
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

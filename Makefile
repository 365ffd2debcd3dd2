# `make test` and `make demo` are each the only command a fresh machine needs (Python 3.11 or later).
# Development uses an editable install; the tests run against the wheel, unpacked to build/site.

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
SITE := build/site
PIP := $(BIN)/python -m pip --disable-pip-version-check
SOURCES := $(shell find src -name '*.py')
PYTEST := PYTHONPATH=$(SITE) $(BIN)/python -m pytest
PYTEST_ARGS ?= -n auto -m "not slow"
DEMO_OUT ?= build/demo
DEMO_SEED ?= 0
ZOO_ARGS ?=
PENALTIES_ARGS ?=
ACCURACY_ARGS ?=

.PHONY: help venv demo test lint types unit slow fuzz bench scaling zoo penalties accuracy
.PHONY: format clean
.DEFAULT_GOAL := help

help:
	@echo "make test    lint, types and tests, against the built wheel"
	@echo "make demo    train, slim and check two networks on digits, into $(DEMO_OUT)"
	@echo "make venv    only build .venv from constraints.txt"
	@echo "make zoo     cut and check every network of the zoo, write docs/zoo.md"
	@echo "make penalties  train under every penalty and process kind, write docs/penalties.md"
	@echo "make accuracy  compare methods at a number of MACs, write docs/accuracy.md (hours)"
	@echo "make lint | types | unit | slow | fuzz | bench | scaling | format | clean"

venv: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "gammaslim needs Python 3.11 or later; $(PYTHON) is older. Try: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv .venv
	$(PIP) install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

$(SITE)/.built: $(STAMP) $(SOURCES) README.md LICENSE
	@rm -rf $(SITE)
	$(PIP) install --quiet --no-deps --no-build-isolation --target $(SITE) .
	@touch $@

demo: $(STAMP)
	$(BIN)/gammaslim demo --out $(DEMO_OUT) --seed $(DEMO_SEED)

test: lint types unit

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/pyright

unit: $(SITE)/.built
	$(PYTEST) $(PYTEST_ARGS)

slow: $(SITE)/.built
	$(PYTEST) -m slow

fuzz: $(SITE)/.built
	HYPOTHESIS_PROFILE=long $(PYTEST) --timeout 0 tests/laws/test_random_nets.py \
	  tests/laws/test_blocks.py::test_law_on_made_up_networks

bench: $(STAMP)
	$(PIP) install --quiet --constraint constraints.txt --editable '.[bench]'
	$(BIN)/python -m bench.speed

zoo: $(STAMP)
	$(PIP) install --quiet --constraint constraints.txt --editable '.[bench]'
	$(BIN)/python -m bench.zoo $(ZOO_ARGS)

penalties: $(STAMP)
	$(BIN)/python -m bench.penalties $(PENALTIES_ARGS)

accuracy: $(STAMP)
	$(PIP) install --quiet --constraint constraints.txt --editable '.[bench]'
	$(BIN)/python -W ignore -m bench.accuracy $(ACCURACY_ARGS)

scaling: $(STAMP)
	$(PIP) install --quiet --constraint constraints.txt --editable '.[bench]'
	$(BIN)/python -m bench.scaling

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf build dist .pytest_cache .ruff_cache .hypothesis

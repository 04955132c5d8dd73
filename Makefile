# One short command each to build, run, test, check, debug and bench. `make help` lists them.
#
# PYTHON chooses the interpreter of a new .venv (make PYTHON=python3.12 test); an existing one is kept unless told otherwise.

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= $(if $(wildcard $(BIN)/python),$(BIN)/python,python3)
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')

# Builds use the environment's own Cython: an isolated build would compile every kernel twice.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

KERNELS := $(wildcard csrc/*.pyx csrc/*.pxd csrc/*.h)
INSTALLED := $(VENV)/.sadik-installed-$(VERSION)
BENCH := $(VENV)/.sadik-bench-$(VERSION)
BUILT := $(VENV)/.sadik-built-$(VERSION)

DATA ?= sadik-data
ARGS ?=
TESTS ?=

.PHONY: help build run test check bench debug torture mutants clean
.DEFAULT_GOAL := help

help:
	@echo 'make build    virtual environment in $(VENV), kernels in parallel; instant when nothing has changed'
	@echo 'make run      a cluster of three nodes on this machine (DATA=directory, ARGS="--nodes 5 --sync always")'
	@echo 'make test     all tests but the torture ones (TESTS="tests/api -k scan")'
	@echo 'make check    ruff, mypy, and the rules of the tree'
	@echo 'make bench    micro benchmarks (TESTS=benchmarks/micro/test_bench_ring.py)'
	@echo 'make debug    kernels with every check on, and their tests; make build goes back'
	@echo 'make torture  the tests that take minutes each'
	@echo 'make mutants  known bugs planted one at a time: what notices each, after how many seeds (ARGS="--mutant Z4 --jobs 2")'
	@echo 'make clean    forget everything built; data and $(VENV) stay'

build: $(BUILT)

# An environment of another Python version is replaced; one of the right version is used as it is.
$(INSTALLED): pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo 'no $(PYTHON); on Debian: apt install python3-venv python3-dev gcc' >&2; exit 1; }
	@if [ "$$($(BIN)/python -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)" != '$(VERSION)' ]; then \
	    echo 'making $(VENV) with $(PYTHON) $(VERSION)'; $(PYTHON) -m venv --clear $(VENV); fi
	@echo 'installing dependencies and building the kernels; the first time takes a few minutes'
	$(PIP) 'setuptools>=77' 'Cython>=3.1'
	$(PIP) --no-build-isolation -e '.[test,lmdb]'
	@touch $@

# setup.py compiles only what is older than its sources, or was last built with the debug checks.
$(BUILT): $(INSTALLED) setup.py $(KERNELS)
	$(BIN)/python setup.py --quiet build_ext --inplace
	@touch $@

run: build
	@exec $(BIN)/sadik demo --data $(DATA) $(ARGS)

test: build
	$(BIN)/python -m pytest $(TESTS)

check: build
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_tree.py

$(BENCH): $(INSTALLED)
	$(PIP) --no-build-isolation -e '.[bench]'
	@touch $@

bench: build $(BENCH)
	$(BIN)/python -m pytest $(or $(TESTS),benchmarks/micro) --benchmark-enable --benchmark-only --timeout 1800

debug: $(INSTALLED)
	@rm -f $(BUILT)
	SADIK_DEBUG=1 $(BIN)/python setup.py --quiet build_ext --inplace
	$(BIN)/python -m pytest $(or $(TESTS),tests/kernels) --timeout 600

torture: build
	$(BIN)/python -m pytest -m torture --timeout 7200 $(TESTS)

mutants: build
	$(BIN)/python -m tests.mutants $(ARGS)

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	rm -f sadik/kernels/native/*.so $(VENV)/.sadik-*
	find sadik tests benchmarks -name __pycache__ -prune -exec rm -rf {} +

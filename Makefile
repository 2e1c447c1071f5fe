# The commands of this tree. "make demo" and "make test" work from a clean clone on Debian 12, as root:
# what is missing is installed first. Run "make help" for the rest.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

# Fast tests first: what is broken shows early.
TESTS := $(wildcard tests/unit tests/sim tests/component tests/lab)

# Files of tests that run at a time, 0: all in one process. Those with real daemons wait for most of their time.
JOBS ?= 0

.PHONY: help install install-development demo test check format bench clean

help:
	@echo "make demo    a mesh of nine nodes in a lab internet on this machine (ARGS=--once: take it down again)"
	@echo "make test    all tests (ARGS: options of pytest, for example ARGS='-v -k upnp'; JOBS: files at a time)"
	@echo "make check   linters, type checker, import contracts"
	@echo "make bench   measurements (ARGS: for example ARGS='join --json join.json')"
	@echo "make format  format the sources"
	@echo "make install what demo and bench need: Debian packages and $(VENV); install-development: the rest"
	@echo "make clean   remove what was generated, $(VENV) included"

# Stamps tell what is done already, so that a repeated run costs nothing.
PACKAGES_STAMP := build/packages.stamp
TEST_PACKAGES_STAMP := build/test-packages.stamp
VENV_STAMP := $(VENV)/installed.stamp
DEVELOPMENT_STAMP := $(VENV)/development.stamp

install: $(VENV_STAMP)

install-development: $(DEVELOPMENT_STAMP)

$(PACKAGES_STAMP): tools/install-packages
	tools/install-packages
	@mkdir -p $(@D) && touch $@

$(TEST_PACKAGES_STAMP): tools/install-packages
	tools/install-packages --tests
	@mkdir -p $(@D) && touch $@

$(VENV_STAMP): $(PACKAGES_STAMP) requirements.txt pyproject.toml tools/make-venv
	tools/make-venv $(VENV) $(PYTHON) requirements.txt
	@touch $@

$(DEVELOPMENT_STAMP): $(VENV_STAMP) $(TEST_PACKAGES_STAMP) requirements-development.txt
	tools/make-venv $(VENV) $(PYTHON) requirements.txt requirements-development.txt
	@touch $@

demo: install
	$(BIN)/re6st-lab demo $(ARGS)

test: install-development
	$(BIN)/pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder $(TESTS) $(ARGS)

check: install-development
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

bench: install
	$(BIN)/re6st-lab bench $(ARGS)

format: install-development
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build re6st.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find re6st tests -name __pycache__ -type d -prune -exec rm -rf {} +

# Every command of this project. `make` alone explains them.
# Needs Python 3.11 or newer, make and the package registry; `make ci` needs Java 17 and Maven (or Docker) as well.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PYTEST_ARGS ?=
# Each process has servers of its own; files are shared out, the tests of a file run one after the other.
PYTEST_PROCESSES ?= 2
PYTEST := $(BIN)/python -m pytest --numprocesses $(PYTEST_PROCESSES)
DEMO_ARGS ?=

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo run test test-busy quick bench bench-peers chaos ci mutants lint types imports format lock wheel clean

help: ## explain every command
	@echo "make COMMAND, where COMMAND is one of:"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(INSTALLED) ## watch worker and API handle a simulated shop for 20 seconds, on embedded servers; DEMO_ARGS=--keep leaves them up
	@$(BIN)/inventory demo $(DEMO_ARGS)

run: $(INSTALLED) ## run the worker with the INVENTORY_ settings of the environment
	@$(BIN)/inventory run

test: $(INSTALLED) ## run every test that this machine can run; PYTEST_ARGS="-k name" narrows it, PYTEST_PROCESSES=0 shows output at once
	@$(PYTEST) $(PYTEST_ARGS)

TIMES ?= 1
test-busy: $(INSTALLED) ## run every test TIMES times while every core is kept busy; the first failure ends it
	@$(BIN)/python -m dev.busy --times $(TIMES) -- $(PYTEST) $(PYTEST_ARGS)

quick: $(INSTALLED) ## run the unit tests only (no servers)
	@$(BIN)/python -m pytest tests/unit $(PYTEST_ARGS)

bench: $(INSTALLED) ## measure speed on real Kafka and PostgreSQL, 15 minutes; QUICK=1 takes a few; BENCH_ARGS="life --json"
	@$(BIN)/python -m dev.benchmarks $(if $(QUICK),--quick) $(BENCH_ARGS)

bench-peers: $(INSTALLED) ## measure Medusa's inventory module on the same PostgreSQL, for scale; needs Node 20 and npm
	@$(BIN)/python -m dev.benchmarks.peers

CHAOS_SECONDS ?= 600
CHAOS_RATE ?= 300
chaos: $(INSTALLED) ## run the worker under faults for CHAOS_SECONDS (600) at CHAOS_RATE, then the ablations; SEED=7 repeats a run
	@$(BIN)/python -m dev.chaos --seconds $(CHAOS_SECONDS) --rate $(CHAOS_RATE) $(if $(SEED),--seed $(SEED)) $(CHAOS_ARGS)

# QUICK=1 leaves out the property tests, so it also lists changes that only a property test notices.
mutants: $(INSTALLED) ## change the rules one expression at a time, list what no unit test notices; MUTANTS="domain.carts.*", QUICK=1
	@$(BIN)/python -m dev.mutants $(if $(QUICK),--only-examples) $(foreach pattern,$(MUTANTS),'$(pattern)')

# INVENTORY_REQUIRE_KAFKA turns a missing real broker from a skip into a failure.
ci: export INVENTORY_REQUIRE_KAFKA := 1
ci: lint types imports test ## exactly what CI runs: lint, types, imports, every test on real Kafka

lint: $(INSTALLED) ## check style and format
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(INSTALLED) ## check types, strictly
	@$(BIN)/mypy

imports: $(INSTALLED) ## check that imports point one way
	@$(BIN)/lint-imports

format: $(INSTALLED) ## rewrite files in the house format
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .

# The pins name no registry and no machine, so that any registry can serve them.
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --custom-compile-command "make lock"
lock: $(INSTALLED) ## pin the dependencies of pyproject.toml again; LOCK_ARGS=--upgrade takes newer versions
	$(COMPILE) $(LOCK_ARGS) pyproject.toml --output-file requirements.txt
	$(COMPILE) $(LOCK_ARGS) --group build --output-file requirements-build.txt
	$(COMPILE) $(LOCK_ARGS) pyproject.toml --extra embedded --group dev --constraint requirements.txt --output-file requirements-dev.txt

wheel: $(INSTALLED) ## build the wheel into dist/
	@$(BIN)/uv build --quiet --wheel --no-build-isolation --out-dir dist

clean: ## remove the environment and every cache of this checkout
	rm -rf $(VENV) .cache build dist mutants .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache

# One environment for everything, rebuilt when the pins change. Every package is checked against its hash; the project
# itself is installed last, editable, with the build backend installed just before.
$(INSTALLED): requirements-dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " \
	  + sys.version.split()[0] + "; name another with: make PYTHON=python3.12")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "$(PYTHON) cannot make virtual environments; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@echo "installing into $(VENV): some 400 MB, a minute or a few"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements-dev.txt
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
	  --no-build-isolation --editable .
	@touch $@

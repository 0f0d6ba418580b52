# Everything a checkout can do. `make` alone lists the targets.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# Another tool to compare with, in an environment of its own.
PEER := .venv-peer
PEER_INSTALLED := $(PEER)/.installed
# A local model folder for the benchmark; without one it uses a small model of its own.
BENCH_MODEL ?= $(wildcard ../shared/data/models/stories15M)

# Two single-threaded workers are quickest on two cores, and one thread keeps sums in one order.
TEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n 2

.DEFAULT_GOAL := help
.PHONY: help setup demo lint test test-slow test-all test-crash check docs bench bench-plan bench-peer bench-settings pictures snapshots clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s  %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(INSTALLED) ## make .venv with everything installed at the pinned versions

demo: $(INSTALLED) ## train the demo model and attribute its queries
	$(BIN)/magic demo

lint: $(INSTALLED) ## style, words, types and import directions
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/python tools/check_words.py
	$(BIN)/mypy
	$(BIN)/lint-imports

test: $(INSTALLED) ## the tests that need minutes
	$(TEST) -m "not slow"

test-slow: $(INSTALLED) ## the tests that start many processes or sweep; SLOW=tests/cli for some of them
	$(TEST) -m slow $(SLOW)

test-all: $(INSTALLED) ## every test
	$(TEST)

test-crash: $(INSTALLED) ## kill, cut off and fill up everything everywhere: an hour
	@for schedule in all gradients sqrt log; do for harm in SIGKILL SIGTERM SIGINT short; do \
	  $(BIN)/python -m tests.crash.sweep --checkpointing $$schedule --harm $$harm || exit 1; done; \
	  unshare -rm $(BIN)/python -m tests.crash.sweep --checkpointing $$schedule --harm full || exit 1; done
	@$(BIN)/python -m tests.crash.processes --moments 1,3,6,10,15,20,25,30,40,50,60,70

check: lint test ## lint, then test

docs: $(INSTALLED) ## build the pages into docs/_build; warnings are errors
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build

bench: $(INSTALLED) ## time training and replay; BENCH_MODEL=folder for a model of your own
	OMP_WAIT_POLICY=PASSIVE THP_MEM_ALLOC_ENABLE=1 $(BIN)/python -m benchmarks.bench_step $(if $(BENCH_MODEL),--model $(BENCH_MODEL))

bench-plan: $(INSTALLED) ## what plan predicts beside what a run takes; on a quiet machine
	$(BIN)/python -m benchmarks.bench_plan $(if $(BENCH_MODEL),--model $(BENCH_MODEL))

bench-peer: $(INSTALLED) $(PEER_INSTALLED) ## run bergson on the same problems; PEER_OPTIONS='--steps 8 …' for others
	$(BIN)/python -m benchmarks.bench_peer --peer $(PEER)/bin/python $(if $(BENCH_MODEL),--model $(BENCH_MODEL)) $(PEER_OPTIONS)

bench-settings: $(INSTALLED) ## predicted against actual in the paper's settings: hours; COLLECTIONS=folder of public data
	$(BIN)/python -m benchmarks.settings_data $(COLLECTIONS) .settings/data
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.bench_settings --data .settings/data --runs .settings/runs --jobs 2 --pictures docs/pictures

pictures: $(INSTALLED) ## draw every screen of the dashboard on the demo into docs/pictures
	$(BIN)/python -m tests.tui.pictures

snapshots: $(INSTALLED) ## accept how the dashboard looks now, where tests/tui/snapshots differs
	MAGIC_ACCEPT_SNAPSHOTS=1 $(BIN)/pytest tests/tui/test_snapshots.py

clean: ## remove .venv, caches and built packages; runs stay
	rm -rf $(VENV) $(PEER) build dist docs/_build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "'$(PYTHON)' is not Python 3.11 or newer: name one that is, as in 'make setup PYTHON=python3.12'." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "'$(PYTHON)' cannot make virtual environments: install its venv and pip (on Debian and Ubuntu: apt install python3-venv)." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt -e '.[dev,docs]'
	@touch $@

# Without what its requirements name and MAGIC never loads, hence without its requirements.
$(PEER_INSTALLED): benchmarks/peer/requirements.txt constraints.txt
	$(PYTHON) -m venv $(PEER)
	$(PEER)/bin/pip install -q -c constraints.txt -r benchmarks/peer/requirements.txt
	$(PEER)/bin/pip install -q --no-deps bergson==2.5.1
	@touch $@

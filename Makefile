# Two commands for a newcomer: `make demo` and `make test`. Both build .venv first where it is missing.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Two processes, a file each at a time, in order of name: tests/integration has the longest files and comes first.
PYTEST := $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

.PHONY: setup demo demo-remote check test style types docs lint clean

demo: setup
	$(BIN)/safe-fedllm compare defenses=none,live+canary+spectrum+consensus --parallel 1 --output runs/demo-$$(date +%Y%m%d-%H%M%S)

# Three participants outside the cluster, of which one sends five times its update and one trains on unsafe data.
demo-remote: setup
	$(BIN)/python -m tests.demo_remote

# What a change has to pass at every step: no test of it starts a federation.
check: style types
	$(PYTEST) --ignore tests/integration

# Everything.
test: style types
	$(PYTEST)

style: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/basedpyright

# The documents as a site: open site/index.html. Search needs a server: `.venv/bin/mkdocs serve`.
docs: setup
	$(BIN)/mkdocs build --strict

setup: $(READY)

# The CPU build of torch is asked for by its exact version before anything else can ask for a CUDA build.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

lint: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build site *.egg-info

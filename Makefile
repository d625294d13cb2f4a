# Every target installs what it needs into .venv. Only Python 3.11 or newer is required.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo demo-short docs test test-integrations lint format bench clean

demo: $(READY)
	$(BIN)/sif demo -o runs/demo

demo-short: $(READY)
	$(BIN)/sif demo --short --fresh -o runs/demo-short

# The manual: docs/_build/html/index.html opens from disk, without a network. A broken link is an error.
docs: $(READY)
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs docs/_build/html

# One process per core, four at most (each needs up to 3 GB), with one thread each.
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile

# Tests with third-party packages, each in its own environment under .integrations; see docs/reference/integrations.md.
# ONLY="swift verl" runs only these tests. WRITE=1 writes the results to that page. Not part of .ci/run: it needs gigabytes
# and minutes.
test-integrations: $(READY)
	WRITE=$(WRITE) $(BIN)/python -m pytest -m integration $(if $(ONLY),$(ONLY:%=tests/integration/test_%.py),tests/integration)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)
	$(BIN)/python benchmarks/scenes.py
	$(BIN)/python benchmarks/rewards.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/grpo_step.py
	$(BIN)/python benchmarks/decoding.py
	$(BIN)/python benchmarks/served.py
	$(BIN)/python benchmarks/pretrain.py
	$(BIN)/python benchmarks/cpu_precision.py

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

clean:
	rm -rf $(VENV) .integrations docs/_build runs dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis

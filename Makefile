# make setup      a virtual environment in .venv with everything (a second call takes no time)
# make demo       240 pictures of the embedded model, a minute or two; prints where they are
# make demo-slurm the same on a SLURM cluster of four nodes, started on this machine and stopped afterwards
# make test       every test            make test-fast   those that take seconds
# make check      what CI runs: ruff, mypy, every test
# make bench      the measurements in benchmarks/log.md
# make screenshots the pictures of the README, from a run of 96 pictures; needs chromium
# make gpu        CUDA tests and full-size speed on a card of 80 GB, in eight minutes; installs nothing

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: setup demo demo-slurm test test-fast lint check bench screenshots gpu clean

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "batchgen needs Python 3.11 or newer; make PYTHON=python3.12 setup")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

demo: setup
	$(BIN)/batchgen submit manifests/prompts.parquet

demo-slurm: setup
	slurm/testcluster start
	eval "$$(slurm/testcluster env)" && $(BIN)/batchgen submit manifests/prompts.parquet --site slurm/testcluster.toml --out runs/prompts-slurm && \
	    $(BIN)/batchgen status runs/prompts-slurm --watch; code=$$?; slurm/testcluster stop; exit $$code

# In processes of one thread each. The SLURM suite keeps one of them, and mostly waits.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --dist loadfile --no-loadscope-reorder

test: setup
	$(PYTEST) --numprocesses 3

test-fast: setup
	$(PYTEST) --numprocesses 2 -m "not slow"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint test

bench: setup
	$(BIN)/python -m benchmarks.speed
	$(BIN)/python -m benchmarks.plan_scale
	$(BIN)/python -m benchmarks.claims_scale
	$(BIN)/python -m benchmarks.status_scale
	$(BIN)/python -m benchmarks.report_scale
	$(BIN)/python -m benchmarks.quality
	$(BIN)/python -m benchmarks.floors
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[bench]'
	$(BIN)/python -m benchmarks.peers

screenshots: setup
	$(BIN)/python docs/images/make.py

# With the packages that are there: a machine with a card often has its own PyTorch, and no network.
gpu:
	$$(test -x $(BIN)/python && echo $(BIN)/python || echo $(PYTHON)) -m benchmarks.gpu $(ARGS)

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache *.egg-info

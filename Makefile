# `make demo` and `make test` work on a fresh machine with Python 3.11 or newer; nothing else is needed.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# Two test processes with a thread each are faster than one with two; set WORKERS=0 to run in one process.
WORKERS ?= 2

.PHONY: demo test quick check clean

demo: $(VENV)/installed
	mkdir -p demo
	$(BIN)/aminoglot embed examples/ecoli_proteome.fasta.gz -o demo/ecoli.h5
	$(BIN)/python examples/look.py demo/ecoli.h5
	$(BIN)/python examples/map.py demo/ecoli.h5 examples/ecoli_proteome.fasta.gz demo/map.png
	@echo "Look at demo/map.png. Next, with a larger model: $(BIN)/aminoglot models"

# What CI runs.
test: $(VENV)/installed-dev check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal

# The same without the slow tests.
quick: $(VENV)/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal -m "not slow"

check: $(VENV)/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "aminoglot needs Python 3.11 or newer; try make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "installing, this takes a minute or two"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[plot]'
	touch $@

$(VENV)/installed-dev: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@ $(VENV)/installed

clean:
	rm -rf $(VENV) build dist demo .mypy_cache .pytest_cache .ruff_cache

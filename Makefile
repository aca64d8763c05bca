# Two commands: `make demo` and `make test`. Each sets up what it needs, and nothing twice.

PYTHON ?= python3
VENV   ?= .venv
RUNS   ?= runs/demo
BIN    := $(VENV)/bin

.PHONY: demo test setup clean

demo: setup
	$(BIN)/python analyses/01_first_fit.py $(RUNS)
	$(BIN)/python analyses/02_what_comes_next.py $(RUNS)
	$(BIN)/python analyses/03_where_it_looks.py $(RUNS)
	$(BIN)/python analyses/04_what_chains_disagree_about.py $(RUNS)
	@echo "The report:"
	@$(BIN)/gptbayes report $(RUNS)/05-nuts $(RUNS)/05-pathfinder $(RUNS)/05-optimize

test: setup
	$(BIN)/python -m pytest

setup: $(VENV)/ready
	$(BIN)/gptbayes setup

$(VENV)/ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "gptbayes needs Python 3.11 or newer, $(PYTHON) is $$($(PYTHON) --version 2>&1)"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	  { echo "$(PYTHON) -m venv failed; on Debian: apt-get install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@

clean:
	rm -rf $(VENV) runs dist

# Two commands: `make demo` and `make test`. Each sets up what it needs, and nothing twice.
#
#   make demo       four analyses and a report
#   make test       all tests
#   make check      ruff, mypy and the tests that need no compiled Stan program and no browser
#   make lint       ruff and mypy
#   make essays     the analyses as pages to read
#   make docs       the essays, and the reference of the Python interface
#   make validate   simulation-based calibration of all stages
#   make faults     signals, damaged runs and command lines at random, sixty times each
#   make bench      speed beside other software
#   make platforms  demo and tests on another Debian
#   make clean      remove what the others made in this folder

PYTHON ?= python3
VENV   ?= .venv
EXTRA  ?=
ALSO   ?=
RUNS   ?= runs/demo
VALIDATE ?= runs/validate
BENCH  ?= runs/bench
BENCH_VENV ?= .venv-bench
TORCH  ?= torch>=2
SITE   ?= site
ESSAYS ?=
REFERENCE ?=

BIN     := $(VENV)/bin
PIP     := $(BIN)/python -m pip install --quiet --disable-pip-version-check
SOURCES := $(shell find gptbayes stan -name '*.py' -o -name '*.stan*' -o -name '*.html' -o -path '*kernels/*pp')
FIRST   := $(RUNS)/01_first_fit.txt
OTHERS  := $(RUNS)/02_next_character.txt $(RUNS)/03_attention_weights.txt \
           $(RUNS)/04_chain_agreement.txt
SBC     := 08_simulation_based_calibration
REPORT  := $(RUNS)/05-nuts/report.html

.PHONY: demo test check lint essays docs validate faults bench platforms setup packages cmdstan \
        clean help
.DELETE_ON_ERROR:

# The first essay fits the model on both cores. The others and the report use one core most of the
# time, so two run at once; setup is done by then.
demo: setup $(FIRST)
	@$(MAKE) --no-print-directory --jobs 2 --old-file setup $(REPORT) $(OTHERS)
	@for each in $(FIRST) $(OTHERS); do echo; echo "== $$each"; cat $$each; done
	@echo; echo "The report: $(abspath $(REPORT))"

# Two processes share the test files. Programs are compiled once, two at a time.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile

test: setup $(VENV)/ready-test
	$(PYTEST)

check: lint setup
	$(PYTEST) -m 'not slow and not stan and not browser'

lint: $(VENV)/ready-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' $(firstword $(MAKEFILE_LIST))

# An hour or two the first time: the essays, executed and rendered, with an index. Fits in runs/ are
# reused. The essay on simulation-based calibration takes half an hour by itself: it is executed if
# `make validate` has run. `make essays ESSAYS='01 05'` renders these two.
essays: $(VENV)/ready-docs setup
	$(BIN)/python analyses/render.py $(SITE)/essays $(ESSAYS) $(REFERENCE) \
	  $(if $(wildcard runs/validate/$(SBC).txt),,--unexecuted $(SBC))

# The essays and the reference of the Python interface in one folder.
docs:
	@$(MAKE) --no-print-directory REFERENCE=--reference essays
	@echo "The front page: $(abspath $(SITE)/index.html)"

# Half an hour: are the posteriors of all twelve stages calibrated? Interrupted runs resume.
validate: setup
	@mkdir -p $(VALIDATE)
	$(BIN)/python analyses/$(SBC).py --runs $(VALIDATE) > $(VALIDATE)/$(SBC).partial
	@mv $(VALIDATE)/$(SBC).partial $(VALIDATE)/$(SBC).txt
	@cp $(VALIDATE)/calibration.csv analyses/
	@cp $(VALIDATE)/calibration.png analyses/figures/
	@cat $(VALIDATE)/$(SBC).txt

# The long form of tests/faults, whose short form is part of `make test`: signals in every phase,
# damaged and foreign run directories, command lines. `make faults SEED=7` repeats what a seed did.
SEED   := $(or $(SEED),$(shell date +%s))
FAULTS ?= 60
faults: setup $(VENV)/ready-test
	@echo "seed $(SEED)"
	FAULTS_SEED=$(SEED) FAULTS_MANY=$(FAULTS) $(PYTEST) tests/faults
	@echo "seed $(SEED): passed"

# Two and a half hours: gradients, forward pass, samplers, growth, evidence and influence beside
# JAX, PyTorch, stanli, NumPyro, BlackJAX, nutpie, PyMC and devinterp, in a venv of its own. `make
# bench QUICK=--quick` takes a quarter of an hour and says less; `make bench TORCH=torch==2.13.0`
# chooses a PyTorch, whose newest may bring gigabytes for a GPU. At stage 12 nutpie's metric of low
# rank is left out: its adaptation takes longer than its gradients.
bench:
	@$(MAKE) --no-print-directory VENV=$(BENCH_VENV) EXTRA=bench ALSO='$(TORCH)' setup
	@mkdir -p $(BENCH)
	@rm -f $(BENCH)/bench.partial
	@set -e; for each in gradients.py 'gradients.py --growth' forward.py texts.py nuts.py \
	    'nuts.py --stage 12 --without low-rank' 'growth.py --out $(BENCH)/growth' \
	    evidence.py influence.py; do \
	  echo "tests/performance/$$each $(QUICK)" | tee -a $(BENCH)/bench.partial >&2; \
	  $(BENCH_VENV)/bin/python tests/performance/$$each $(QUICK) >> $(BENCH)/bench.partial; \
	  echo >> $(BENCH)/bench.partial; \
	done
	@mv $(BENCH)/bench.partial $(BENCH)/bench.txt
	@cat $(BENCH)/bench.txt

setup: $(VENV)/ready
	$(BIN)/gptbayes setup

# The output of an essay is saved; progress goes to the terminal.
$(RUNS)/%.txt: analyses/%.py $(SOURCES) | setup
	@mkdir -p $(RUNS)
	$(BIN)/python $< --runs $(RUNS) > $@.partial
	@mv $@.partial $@

$(OTHERS): $(FIRST)

$(REPORT): $(FIRST) $(SOURCES)
	$(BIN)/gptbayes report $(RUNS)/05-nuts $(RUNS)/05-pathfinder $(RUNS)/05-optimize
	@touch $@

$(VENV)/ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "gptbayes needs Python 3.11 or newer, $(PYTHON) is $$($(PYTHON) --version 2>&1)"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	  { echo "$(PYTHON) -m venv failed; on Debian: apt-get install python3-venv"; exit 1; }
	@$(PIP) cmdstanpy filelock httpstan platformdirs 2> /dev/null || true
	@$(MAKE) --no-print-directory --jobs 2 packages cmdstan
	@touch $@

# Where a CmdStan must be built, that takes longest and needs four packages only: pip installs the
# others meanwhile. If the build fails, `gptbayes setup` tries again and says why.
packages:
	$(PIP) $(if $(ALSO),'$(ALSO)') --editable '.[engine$(EXTRA:%=,%)]'

cmdstan:
	@if $(BIN)/python -c 'import cmdstanpy' 2> /dev/null; then $(BIN)/python -m gptbayes.toolchain || true; fi

$(VENV)/ready-%: $(VENV)/ready
	$(PIP) --editable '.[$*]'
	@touch $@

# Twenty minutes, for whoever changes the toolchain; needs root, debootstrap and Debian's packages.
# Debian 13 in a folder, and in it `make demo` and `make test`; SUITE=bookworm is Debian 12.
SUITE    ?= trixie
PLATFORM ?= $(abspath runs)/platform-$(SUITE)
platforms:
	tests/platforms/debian $(PLATFORM) $(SUITE)

clean:
	rm -rf $(VENV) $(BENCH_VENV) runs dist $(SITE)

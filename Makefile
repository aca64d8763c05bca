# Two commands: `make demo` and `make test`. Each sets up what it needs, and nothing twice.
# `make essays` and `make docs` make pages to read; `make bench` and `make validate` are for whoever
# changes the programs.

PYTHON ?= python3
VENV   ?= .venv
EXTRA  ?= test
ALSO   ?=
RUNS   ?= runs/demo
VALIDATE ?= runs/validate
SITE   ?= site
ESSAYS ?=
REFERENCE := gptbayes $(addprefix gptbayes.,corpus findings inference model progress report stats \
             toolchain)
BENCH  ?= runs/bench
BENCH_VENV ?= .venv-bench
TORCH  ?= torch>=2

BIN     := $(VENV)/bin
SOURCES := $(shell find gptbayes stan -name '*.py' -o -name '*.stan*' -o -name '*.html' -o -path '*kernels/*pp')
FIRST   := $(RUNS)/01_first_fit.txt
OTHERS  := $(RUNS)/02_next_character.txt $(RUNS)/03_attention_weights.txt \
           $(RUNS)/04_chain_agreement.txt
SBC     := 08_simulation_based_calibration
REPORT  := $(RUNS)/05-nuts/report.html

.PHONY: demo test essays docs validate bench setup clean
.DELETE_ON_ERROR:

demo: setup $(FIRST) $(OTHERS) $(REPORT)
	@for each in $(FIRST) $(OTHERS); do echo; echo "== $$each"; cat $$each; done
	@echo; echo "The report: $(abspath $(REPORT))"

test: setup
	$(BIN)/python -m pytest

# Under an hour: the essays, executed and rendered, with an index. Fits in runs/ are reused. The
# essay on simulation-based calibration takes half an hour by itself: it is executed if
# `make validate` has run. `make essays ESSAYS='01 05'` renders these two.
essays: $(VENV)/ready-docs setup
	$(BIN)/python analyses/render.py $(SITE)/essays $(ESSAYS) \
	  $(if $(wildcard runs/validate/$(SBC).txt),,--unexecuted $(SBC))

# The reference of the Python interface, and the essays, in one folder.
docs: $(VENV)/ready-docs
	$(BIN)/python -W 'ignore:Error parsing type annotation' -m pdoc --docformat numpy --math \
	  --output-directory $(SITE)/api $(REFERENCE)
	@$(MAKE) --no-print-directory essays
	@echo "The front page: $(abspath $(SITE)/index.html)"

# Half an hour: are the posteriors of all twelve stages calibrated? Interrupted runs resume.
validate: setup
	@mkdir -p $(VALIDATE)
	$(BIN)/python analyses/$(SBC).py --runs $(VALIDATE) > $(VALIDATE)/$(SBC).partial
	@mv $(VALIDATE)/$(SBC).partial $(VALIDATE)/$(SBC).txt
	@cp $(VALIDATE)/calibration.csv analyses/
	@cp $(VALIDATE)/calibration.png analyses/figures/
	@cat $(VALIDATE)/$(SBC).txt

# Ten minutes: gradients, forward pass and NUTS beside JAX, PyTorch, stanli, NumPyro, BlackJAX and
# nutpie, in an environment of its own. `make bench QUICK=--quick` takes two minutes and says less;
# `make bench TORCH=torch==2.13.0` chooses a PyTorch, whose newest may bring gigabytes for a GPU.
bench:
	@$(MAKE) --no-print-directory VENV=$(BENCH_VENV) EXTRA=bench ALSO='$(TORCH)' setup
	@mkdir -p $(BENCH)
	@rm -f $(BENCH)/bench.partial
	@set -e; for each in gradients.py 'gradients.py --growth' forward.py texts.py nuts.py; do \
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
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(if $(ALSO),'$(ALSO)') --editable '.[$(EXTRA)]'
	@touch $@

$(VENV)/ready-docs: $(VENV)/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	@touch $@

clean:
	rm -rf $(VENV) $(BENCH_VENV) runs dist $(SITE)

# make demo and make test are the two commands of a fresh machine; everything lives in .venv and results/.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(abspath $(VENV))/bin
STUDY  := results/demo
# The demo's networks are too small to use a second core: without a GPU, as many as there are cores train side by side.
CORES  := $(shell getconf _NPROCESSORS_ONLN)
ABREAST := $(if $(shell command -v nvidia-smi 2>/dev/null),,\
  --resources gpu=$(CORES) --set-threads pretrain=1 embed=1 finetune=1 decode=1)

.PHONY: help setup demo test test-all test-slurm lint schemas bench clean

help:            ## this list
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(VENV)/.installed ## make .venv and install what requirements.lock pins

# A uv on the PATH only makes this faster.
$(VENV)/.installed: requirements.lock pyproject.toml
	@if command -v uv >/dev/null 2>&1; then \
	  test -x $(BIN)/python || uv venv --quiet --python $(PYTHON) $(VENV); \
	  VIRTUAL_ENV=$(abspath $(VENV)) uv pip install --quiet -r requirements.lock && \
	  VIRTUAL_ENV=$(abspath $(VENV)) uv pip install --quiet --no-deps -e . ; \
	else \
	  test -x $(BIN)/python || $(PYTHON) -m venv $(VENV); \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock && \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e . ; \
	fi
	@touch $@

demo: setup      ## simulate the demo study and run the whole line on it
	$(BIN)/neuropipe demo --output $(STUDY)/study
	$(BIN)/snakemake --cores all $(ABREAST)
	@echo "The report: $(abspath $(STUDY))/report/index.html"

test: setup      ## the fast tests
	$(BIN)/python -m pytest -n auto -m "not slow and not slurm"

test-all: setup  ## every test, the slow ones too
	$(BIN)/python -m pytest -n auto -m "not slurm"
	$(MAKE) test-slurm

test-slurm: setup ## the line on a real Slurm of two nodes; root, Debian (elsewhere skipped)
	tests/workflow/install_slurm.sh
	$(BIN)/python -m pytest -m slurm -rs tests/workflow/test_slurm.py

lint: setup      ## style, floors, workflow
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/snakefmt --check Snakefile rules
	$(BIN)/snakemake --lint

schemas: setup   ## rewrite workflow/schemas from the code
	$(BIN)/neuropipe schema --fix

bench: setup     ## print the ratios that docs/performance.md quotes
	@for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script; done

clean:           ## remove the demo's products
	rm -rf $(STUDY)

# The two commands: `make run` and `make test`. Everything lives in .venv/, made from pinned versions.
SHELL := /bin/bash
PYTHON ?= python3
CORES ?= $(shell nproc)
# A preset is an overlay on params.yaml: make run PRESET=presets/cube-single.yaml
PRESET ?=
BIN := .venv/bin
# With the environment's programs first on PATH; works for a user without a name or a home.
RUN := PATH="$(CURDIR)/$(BIN):$$PATH" sh workflow/in-venv
export PYTHONUNBUFFERED := 1

.PHONY: run figures tour test bench lint installs torture help clean-venv

help: ## List the targets.
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | column -t -s "$$(printf '\t')"

run: .venv/.run ## Train and evaluate the experiment of params.yaml, then show the table.
	@$(RUN) snakemake --cores $(CORES) $(if $(PRESET),--configfile $(PRESET))
	@cat results/report/table.txt

figures: .venv/.run ## Make the paper's figures and tables from the experiment of params.yaml (or PRESET).
	@$(RUN) snakemake --cores $(CORES) all_figures $(if $(PRESET),--configfile $(PRESET))
	@find results/figures -name '*.svg' -o -name '*.html'

tour: .venv/.run ## Make everything once, small: all agents, every table and figure (docs/results.md).
	@$(RUN) snakemake --cores $(CORES) all all_figures --configfile presets/tour.yaml
	@cat results/report/table.txt

# One process more than there are cores: some tests mostly wait.
test: .venv/.dev ## Run the whole test suite.
	$(BIN)/python -m pytest -n $$(($(CORES) + 1)) --dist worksteal $(PYTEST_ARGS)

lint: .venv/.dev ## Check format, types, imports between rooms, the workflow, and the pinned packages for known vulnerabilities.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/snakefmt --check workflow
	$(BIN)/snakemake --lint
	$(BIN)/python tools/audit.py

installs: .venv/.dev ## Install with every supported Python on this machine, in a temporary folder (gigabytes).
	$(BIN)/python tools/installs.py

bench: .venv/.dev ## Measure speed on this machine; writes results/bench/bench.json.
	$(BIN)/python -m benchmarks.run

torture: .venv/.dev ## Kill every long stage at random moments, KILLS times each; nothing may change.
	$(BIN)/python -m benchmarks.torture --kills $(or $(KILLS),50)
	$(BIN)/python -m benchmarks.torture --kills 5 --dataset cube-single-play

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13) and "flp needs Python 3.11 or 3.12, and $(PYTHON) is %s: install one, then make PYTHON=python3.12 $(or $(MAKECMDGOALS),run)" % sys.version.split()[0])'
	@$(PYTHON) -m venv .venv

# An environment contains the path of the folder in which it was made.
.PHONY: in-place
in-place:
	@[ ! -e .venv/bin/snakemake ] || [ -x "$$(sed -n '1s/^#!\([^ ]*\).*/\1/p' .venv/bin/snakemake)" ] \
	  || { echo 'error: .venv was made in another folder, from which this was moved: make clean-venv, and again' >&2; exit 2; }

.venv/.run: .venv/bin/python pyproject.toml constraints.txt | in-place
	@$(BIN)/python -m pip --version > /dev/null 2>&1 || $(PYTHON) -m venv .venv # half made
	@echo 'installing the pinned packages into .venv …'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

.venv/.dev: .venv/.run
	@echo 'installing the pinned packages into .venv …'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,slurm,onnx,tensorboard,hdf5,minari]'
	@touch $@

clean-venv: ## Remove the environment.
	rm -rf .venv

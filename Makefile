# Thin calls of `lead-coordinator …` and of the development tools, installed into .venv when first needed.
VENV := .venv
BIN := $(VENV)/bin
INSTALL = $(BIN)/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt --editable

# The newest Python that the pinned packages are tested with, else any python3 that is new enough.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)

.PHONY: help demo up test check format fingerprints bench python
.DEFAULT_GOAL := help

help: ## Show this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | awk -F'\t' '{ printf "  make %-14s%s\n", $$1, $$2 }'

demo: $(VENV)/.installed ## The whole circle on examples/: topics, articles, audit, refreshes; then it stops (KEEP=1 leaves it up)
	$(BIN)/lead-coordinator demo --follow-parent $(if $(filter-out 0,$(KEEP)),--keep)

up: $(VENV)/.installed ## Run the platform in the foreground; Ctrl-C stops all of it
	$(BIN)/lead-coordinator up --follow-parent

test: $(VENV)/.installed-dev ## Run the whole test suite
	$(BIN)/pytest --numprocesses 2 --dist loadgroup

check: $(VENV)/.installed-dev ## Check format, lint, types and SQL
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/sqlfluff lint --disable-progress-bar sql

format: $(VENV)/.installed-dev ## Format the Python files and sort their imports
	$(BIN)/ruff check --select I --fix .
	$(BIN)/ruff format .

fingerprints: $(VENV)/.installed-dev ## Write what sql/ defines into sql/testing-suite.sql, after a change to it
	$(BIN)/python -m lead_coordinator_tests.database.expected_objects

bench: $(VENV)/.installed-bench ## Measure the control plane against other queues into benchmarks/RESULTS.md (half an hour)
	$(BIN)/python -m benchmarks

# Which Python the environment is made with.
python:
	@echo '$(PYTHON)'

$(VENV)/.installed: pyproject.toml setup.py constraints.txt $(BIN)/python
	@echo "Installing the platform into $(VENV) (once; about a minute) …"
	@$(INSTALL) .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml setup.py constraints.txt $(BIN)/python
	@echo "Installing the platform and its development tools into $(VENV) (once; about a minute) …"
	@$(INSTALL) '.[dev]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-bench: pyproject.toml setup.py constraints.txt $(BIN)/python
	@echo "Installing the platform and the queues it is compared with into $(VENV) (once; about a minute) …"
	@$(INSTALL) '.[bench]'
	@touch $@ $(VENV)/.installed

# Debian splits venv off from Python. Where it is missing, a pip that is there anyway can fill an empty environment.
$(BIN)/python:
	@if [ -z "$(PYTHON)" ]; then \
		echo "Python 3.11 or newer is needed, and none was found: install it, or say make PYTHON=/path/to/python3." >&2; \
		exit 2; \
	fi
	@if $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null; then \
		$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 2; }; \
	elif $(PYTHON) -c 'import pip, venv' 2>/dev/null; then \
		$(PYTHON) -m venv --without-pip $(VENV) \
			&& $(PYTHON) -m pip --python $(VENV)/bin/python install -qq pip || { rm -rf $(VENV); exit 2; }; \
	else \
		echo "$(PYTHON) can't make a virtual environment: install its venv module (Debian: apt-get install python3-venv)." >&2; \
		exit 2; \
	fi

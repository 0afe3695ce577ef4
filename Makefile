# A fresh machine needs Python 3.11 or newer, git and make. Everything else comes into .venv/.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS += --no-print-directory
# each of some hundred processes would compile everything anew
unexport PYTHONDONTWRITEBYTECODE
.DEFAULT_GOAL := help
.PHONY: help run test lint bench soak docs clean

# A uv that is there is used as it is; else one is installed beside the project's own packages.
UV := $(shell command -v uv || echo .venv/bin/uv)
BIN := .venv/bin

help: ## Show the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

run: .venv/.synced ## Serve examples/ at http://127.0.0.1:8787, data in .perdure/
	@exec $(BIN)/perdure serve examples/ --data .perdure

test: lint ## Everything that must hold before a change goes in
	$(BIN)/pytest -n 3

lint: .venv/.synced ## Style, types, and the order of the rooms
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

bench: .venv/.synced ## perdure beside its peers and the limit loop; writes bench/results.md (ARGS=--quick: a short one)
	@$(BIN)/python -m bench $(ARGS)

soak: .venv/.synced ## The slow tests: true durations, long runs
	PERDURE_SOAK=1 $(BIN)/pytest --timeout 7200 tests/simulation tests/acceptance

docs: .venv/.synced ## The guide as a site, in site/
	$(BIN)/mkdocs build --strict

clean: ## Remove what was built (.venv and caches); data in .perdure/ stays
	rm -rf .venv build dist site .build .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --inexact: an exact sync would remove the uv that runs it
.venv/.synced: pyproject.toml uv.lock | $(UV)
	$(UV) sync --frozen --all-extras --inexact --quiet
	@touch $@

.venv/bin/uv:
	@python=; for name in python3 python3.14 python3.13 python3.12 python3.11; do \
	  if $$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python=$$name; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
	  echo "perdure needs Python 3.11 or newer; python3 here is: $$(python3 --version 2>&1 || true)" >&2; exit 1; \
	fi; \
	$$python -m venv .venv || { echo "on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv

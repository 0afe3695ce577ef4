# A fresh machine needs Python 3.11 or newer, git and make. Everything else comes into .venv/.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS += --no-print-directory
# each of some hundred processes would compile everything again
unexport PYTHONDONTWRITEBYTECODE
.DEFAULT_GOAL := help
.PHONY: help run test test-waiting compiled test-all test-on test-newest test-bounds lint bench chaos soak docs pictures clean

# A uv that is there is used as it is; else one is installed beside the project's own packages.
UV := $(shell command -v uv || echo .venv/bin/uv)
BIN := .venv/bin
ON_EACH := tests/unit tests/contract tests/simulation tests/acceptance tests/integration/test_calling_the_world.py

help: ## Show the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

run: .venv/.synced ## Serve examples/ at http://127.0.0.1:8787, data in .perdure/
	@exec $(BIN)/perdure serve examples/ --data .perdure

# Faults of brokers, nodes and Faust workers mostly wait: `.ci/run` has them on the newest Python, as all of acceptance.
WAITING := $(addprefix tests/acceptance/,test_kafka_faults.py test_kafka_nodes.py test_faust.py)

# fewer random runs than by default (tests/simulation), and other ones: `.ci/run` makes those on the newest Python
test: .venv/.synced ## The checks a change must pass
	@$(MAKE) -j2 lint compiled
	PERDURE_SEEDS=$${PERDURE_SEEDS:-2000:200} $(BIN)/pytest -n 3 $(addprefix --ignore=,$(WAITING))

test-waiting: .venv/.synced ## What `make test` leaves to the newest Python: faults of brokers, nodes and Faust workers
	$(BIN)/pytest -n 3 $(WAITING)

# by one process, beside lint, which keeps one core busy: else each worker compiles all modules and tests by itself
compiled: .venv/.synced
	@$(BIN)/pytest --collect-only >/dev/null || true # what is wrong the run itself says

test-all: lint ## The same on every supported Python that is there, each in an environment of its own
	@for python in $$(.ci/pythons); do $(MAKE) test-on PYTHON=$$python TESTS=tests; done

test-newest: .venv/.synced ## What knows the event loop from inside, on the newest supported Python that is there
	@$(MAKE) test-on PYTHON=$$(.ci/pythons | tail -1) TESTS="$(ON_EACH) tests/integration/test_readme.py"

# of a Python that is there: $(PYTHON), a path
test-on: | $(UV)
	@version=$$($(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])'); echo "Python $$version"; \
	UV_PROJECT_ENVIRONMENT=.venv-$$version $(UV) sync --frozen --all-extras --quiet --python $(PYTHON); \
	.venv-$$version/bin/pytest -n 3 $(TESTS)

test-bounds: | $(UV) ## Unit and contract tests with the lowest and the newest dependencies that pyproject.toml allows
	@for bound in lowest-direct highest; do \
	  python=$$(.ci/pythons | sed -n "$$(if [ $$bound = highest ]; then echo '$$p'; else echo 1p; fi)"); \
	  echo "$$bound on $$python"; \
	  $(UV) venv --quiet --clear --python $$python .venv-$$bound; \
	  $(UV) pip install --quiet --python .venv-$$bound/bin/python --resolution $$bound --upgrade \
	    -e '.[jwt,kafka,otel]' --group dev; \
	  .venv-$$bound/bin/pytest -n 3 tests/unit tests/contract; \
	done

lint: .venv/.synced ## Style, types, the order of the rooms, and the words
	$(BIN)/python .ci/words.py
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/mypy --python-version 3.13
	$(BIN)/lint-imports --no-logo

bench: .venv/.synced ## perdure beside its peers and the limit loop; writes bench/results.md (ARGS=--quick: a short one)
	@$(BIN)/python -m bench $(ARGS)

# not part of `test`: it takes both processors for a minute, and its rule that each partition goes on within 15 s of a
# fault needs them for itself
chaos: .venv/.synced ## Three brokers and three nodes that die for a minute
	PERDURE_CHAOS=1 $(BIN)/pytest -s --timeout 1800 tests/acceptance/test_kafka_chaos.py

soak: .venv/.synced ## The slow tests: true durations, long runs
	PERDURE_SOAK=1 $(BIN)/pytest --timeout 7200 tests/simulation tests/acceptance

docs: .venv/.synced ## The guide as a site, in site/
	$(BIN)/mkdocs build --strict

# each picture ends with the hash of the text that it was drawn from: tests/unit/test_pictures.py compares them
pictures: ## Draw docs/pictures/*.d2 again, as SVG (needs Go)
	@GOBIN=$(CURDIR)/.build/bin go install oss.terrastruct.com/d2@v0.7.1
	@for text in docs/pictures/*.d2; do \
	  .build/bin/d2 --layout dagre --theme 0 --dark-theme 200 --pad 16 --scale 0.9 $$text $${text%.d2}.svg; \
	  echo "<!-- drawn from sha256:$$(sha256sum <$$text | cut -d' ' -f1) -->" >>$${text%.d2}.svg; \
	done
	@chmod 644 docs/pictures/*.svg

clean: ## Remove what was built (.venv and caches); data in .perdure/ stays
	rm -rf .venv .venv-* build dist site .build .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
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

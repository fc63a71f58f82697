# coldmem: everything that is built, run and checked, by one name each. `make help` lists them.
#
# PYTHON=python3.13   take this interpreter, in a virtual environment of its own
# ARGS="..."          more arguments for demo, bench, lab, test, tsan and soak
# JOBS=4              compilers at a time

MAKEFLAGS += --no-builtin-rules --no-print-directory
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# What the shell has set for another Python must not reach ours.
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV

WORKS = -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
ifdef PYTHON
  VENV := .venv-$(notdir $(PYTHON))
else
  # A candidate is run, not only looked up: a version manager's stub may be there and not work.
  PYTHON := $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
      if $$p $(WORKS); then echo $$p; break; fi; done)
  VENV := .venv
endif
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
ARGS ?=

PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check -q
STAMPS := $(VENV)/stamps
SOURCES := $(shell find src -name '*.py' -o -name '*.pxd' -o -name '*.h')
DOCS := $(shell find docs -type f -not -path 'docs/_build/*' -not -path 'docs/api/generated/*' 2>/dev/null)

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

# -- steps: each leaves a stamp, so that nothing is done twice ------------------------------------
.PHONY: check-python
check-python:
ifeq ($(PYTHON),)
	@echo "coldmem: no Python 3.11 or later found (tried python3, python3.14 ... python3.11)." >&2
	@echo "Install one, or name it: make PYTHON=/path/to/python3.12 ..." >&2
	@false
endif

$(STAMPS)/venv: | check-python
	@$(PYTHON) tools/check_machine.py
	@echo "== $(VENV): a virtual environment of $$($(PYTHON) --version)"
	@$(PYTHON) -m venv --clear $(VENV)
	@mkdir -p $(STAMPS)
	@touch $@

# setuptools and Cython as pyproject.toml asks for them, then coldmem itself, editable.
$(STAMPS)/install: pyproject.toml $(STAMPS)/venv
	@echo "== installing what coldmem needs"
	@$(PIP) install $$($(PY) tools/requirements.py build)
	@COLDMEM_INSTALL_ONLY=1 $(PIP) install --no-build-isolation -e .
	@touch $@

$(STAMPS)/build: $(SOURCES) setup.py $(STAMPS)/install
	@echo "== compiling"
	@$(PY) setup.py -q build_ext --inplace -j $(JOBS)
	@echo '$(NAMES)' > $@

# A deleted file makes no target older; the stamp holds a checksum of all names for that.
NAMES := $(shell printf '%s\n' $(sort $(SOURCES)) | cksum | tr ' ' '-')
ifneq ($(NAMES),$(shell cat $(STAMPS)/build 2>/dev/null))
  $(shell rm -f $(STAMPS)/build)
endif

# test, lint, docs: the extras of pyproject.toml by that name
$(STAMPS)/extra-%: $(STAMPS)/install
	@echo "== installing what $* needs"
	@$(PIP) install $$($(PY) tools/requirements.py $*)
	@touch $@

.PHONY: build
build: $(STAMPS)/build ## compile in place, what changed only

# -- what a user runs -----------------------------------------------------------------------------
.PHONY: demo bench lab
demo: $(STAMPS)/build ## build, then NumPy on five times the limit, every result checked; then locks in short
	@$(VENV)/bin/coldmem demo $(ARGS)

bench: $(STAMPS)/build ## store, load and invalidate against the bare codec
	@$(VENV)/bin/coldmem bench engine $(ARGS)

lab: $(STAMPS)/build ## the locking experiment: five arms, three workloads
	@$(VENV)/bin/coldmem lab locks $(ARGS)

# -- what a contributor runs ----------------------------------------------------------------------
.PHONY: test lint tsan asan soak figures htmldocs pdfdocs clean
test: $(STAMPS)/build $(STAMPS)/extra-test ## the whole test suite
	@$(PY) -m pytest $(ARGS)

lint: $(STAMPS)/build $(STAMPS)/extra-lint $(STAMPS)/extra-test ## ruff, mypy and docstring checks
	@$(PY) tools/lint.py

tsan: $(STAMPS)/build $(STAMPS)/extra-test ## thread tests under ThreadSanitizer, and the race it must catch
	@$(PY) tools/sanitize.py thread $(ARGS)

asan: $(STAMPS)/build $(STAMPS)/extra-test ## the test suite under AddressSanitizer
	@$(PY) tools/sanitize.py address $(ARGS)

SOAK_SECONDS ?= 60
soak: $(STAMPS)/build $(STAMPS)/extra-test ## the thread tests, SOAK_SECONDS=60 each
	@COLDMEM_STRESS_SECONDS=$(SOAK_SECONDS) $(PY) -m pytest -m tsan -v \
		--timeout $$((30 * $(SOAK_SECONDS) + 240)) $(ARGS)

figures: $(STAMPS)/venv ## the README's table of figures, from docs/results
	@$(PY) tools/figures.py

htmldocs: $(STAMPS)/build $(STAMPS)/extra-docs $(DOCS) ## the documentation: docs/_build/html/index.html
	@$(PY) -m sphinx -E -W --keep-going -q -b html -d docs/_build/tree docs docs/_build/html
	@echo "docs/_build/html/index.html"

pdfdocs: $(STAMPS)/build $(STAMPS)/extra-docs $(DOCS) ## the same as one PDF, without TeX: docs/_build/pdf/coldmem.pdf
	@$(PY) -m sphinx -E -W --keep-going -q -b pdf -d docs/_build/tree-pdf docs docs/_build/pdf
	@echo "docs/_build/pdf/coldmem.pdf"

clean: ## delete everything that was built, virtual environments included
	rm -rf .venv .venv-* build docs/_build docs/api/generated src/*.egg-info
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests -name '*.so' -delete
	find src tests tools -name __pycache__ -type d -prune -exec rm -rf {} +

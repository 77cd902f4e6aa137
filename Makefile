# The commands of the course. `make help` lists them; each is safe to run again.
#   PYTHON=python3.12   the Python to make .venv with        TORCH=cpu   on Linux: PyTorch without CUDA (200 MB, not 3 GB)

PYTHON ?= python3
TORCH ?=
LAB ?=
WORKERS ?= 2
VENV := .venv
IN := $(VENV)/bin/python

# What is installed is told by the content of the requirements and by the folder, which the editable install remembers;
# not by dates, so that a checkout that only touches files reinstalls nothing.
sum = $(shell (pwd; cat $(1)) | cksum | tr ' ' '-')
INSTALLED := $(VENV)/.installed-$(call sum,requirements.txt)
INSTALLED_TESTS := $(VENV)/.installed-tests-$(call sum,requirements.txt tests/requirements.txt)

.DEFAULT_GOAL := help
.PHONY: course test lint notebooks exercises reset bench bench-plan help
.DELETE_ON_ERROR:

course: $(INSTALLED) ## make .venv, your own copy my_course/, and open JupyterLab (LAB="--no-browser" passes arguments on)
	$(IN) -m utils.course start $(LAB)

test: $(INSTALLED_TESTS) ## every test: tools, checks, all notebooks compared, a real browser (WORKERS=1: one file after the other)
	$(IN) -m pytest -n $(WORKERS) --dist loadfile --nbval --nbval-current-env --nbval-cell-timeout=300 --nbval-sanitize-with=tests/sanitize.cfg \
		--durations=15 tests notebooks solutions exercises

lint: $(INSTALLED_TESTS) ## style and types over utils, tests and notebooks
	$(IN) -m ruff check .
	$(IN) -m tests.notebooks.lint
	$(IN) -m mypy

notebooks: $(INSTALLED) ## execute and clean every lesson and solution, make the exercises
	$(IN) -m utils.publish execute
	$(IN) -m utils.publish exercises

exercises: $(INSTALLED) ## make exercises/ of solutions/
	$(IN) -m utils.publish exercises

reset: $(INSTALLED) ## a fresh copy of one notebook, the old one kept: make reset NOTEBOOK=notebooks/00_start_here
	@test -n "$(NOTEBOOK)" || { echo "Say which: make reset NOTEBOOK=notebooks/00_start_here"; exit 2; }
	@$(IN) -m utils.course reset "$(NOTEBOOK)"

bench: $(INSTALLED) ## ranks beside other ways to start them, hand-built beside PyTorch's own, time and memory of every notebook
	$(IN) -m utils.bench

bench-plan: $(INSTALLED) ## the planner against published measurements: make bench-plan DATA=folder of the tables
	$(IN) -m utils.plan.bench $(if $(DATA),--data "$(DATA)")

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# ----------------------------------------------------------------------------------------------------------------------

# The first Python that is new enough: the one asked for, then the names that newer ones go by.
$(IN):
	@for python in "$(PYTHON)" python3.13 python3.12 python3.11; do \
		if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			echo "Making $(VENV) with $$("$$python" --version)"; exec "$$python" -m venv --clear $(VENV); fi; done; \
	echo "The course needs Python 3.11 or newer. \"$(PYTHON)\" is $$("$(PYTHON)" --version 2>&1 || echo missing)."; \
	echo "Install a newer one, or name it: make course PYTHON=/path/to/python3.12"; exit 1

# With TORCH=cpu only torch itself comes from PyTorch's own index; what it needs comes from the usual one.
$(INSTALLED): | $(IN)
ifeq ($(TORCH),cpu)
	$(IN) -m pip install --no-deps --index-url https://download.pytorch.org/whl/cpu $$(sed -n 's/^\(torch==[^ ]*\).*/\1/p' requirements.txt)
endif
	$(IN) -m pip install -r requirements.txt
	@rm -f $(VENV)/.installed-* && touch $@

$(INSTALLED_TESTS): $(INSTALLED)
	$(IN) -m pip install -r tests/requirements.txt
	@rm -f $(VENV)/.installed-tests-* && touch $@

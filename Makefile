# Every target is a command of `python -m spatialkit`; this file only finds or makes the environment for it.
#   make figures    make test    make help

# Major and minor version of a Python, such as 3.12; nothing where there is none.
version = $(shell $(1) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)

# PYTHON chooses a Python. Where .venv was made with one of another version, the choice gets an environment of its own.
ifneq ($(origin PYTHON),undefined)
  WANTED := $(or $(call version,$(PYTHON)),unknown)
endif
PYTHON ?= python3
VENV := .venv
ifneq ($(and $(WANTED),$(wildcard .venv/bin/python)),)
  ifneq ($(WANTED),$(call version,.venv/bin/python))
    VENV := .venv-$(WANTED)
  endif
endif
READY := $(VENV)/.ready
.DEFAULT_GOAL := help

# An active environment is used when its Python has papermill and this very copy of spatialkit, and is the one chosen.
ACTIVE := $(or $(VIRTUAL_ENV),$(CONDA_PREFIX))
USABLE := import sys; from importlib.util import find_spec; from pathlib import Path; s = find_spec('spatialkit'); \
  sys.exit(not (s and find_spec('papermill') and Path('spatialkit/__init__.py').samefile(s.origin)))
ifneq ($(and $(ACTIVE),$(if $(WANTED),$(filter $(WANTED),$(call version,"$(ACTIVE)/bin/python")),any)),)
  ifneq ($(shell "$(ACTIVE)/bin/python" -I -c "$(USABLE)" 2>/dev/null && echo yes),)
    PY := "$(ACTIVE)/bin/python"
    READY :=
  endif
endif
PY ?= $(VENV)/bin/python
RUN = $(PY) -m spatialkit

switch = $(if $(filter-out 0 no false,$(1)),$(2))
ONLY_ARG = $(if $(ONLY),--only "$(ONLY)")
JOBS_ARG = $(if $(JOBS),--jobs "$(JOBS)")

.PHONY: help env figures reproduce test lab render bench audit book doctor clean

help:  ## this list
	@echo "make figures   execute the notebooks: every table, every figure, the scorecard"
	@echo "               PROFILE=smoke|laptop|paper  ONLY=01,12b  JOBS=2  FRESH=1 (ignore committed results)"
	@echo "make reproduce compute again in build/reproduce, and hold it against the committed evidence"
	@echo "               ONLY=06  FRESH=1 (begin anew instead of going on with the last one)"
	@echo "make test      unit tests with their coverage, all notebooks at profile smoke, their stored outputs, style, types"
	@echo "make lab       JupyterLab on this machine only, opened at notebooks/"
	@echo "make render    rerun the committed notebooks in place from committed results (ONLY=01)"
	@echo "make bench     the speed comparisons of benchmarks/ (ONLY=orderness)"
	@echo "make audit     list committed results that other code made"
	@echo "make book      an offline site of the notebooks, the scorecard and the reference: build/book/html/index.html"
	@echo "make doctor    what was found here, what is missing, how to get it"
	@echo "make env       only make the environment $(VENV)"
	@echo "make clean     remove build/ and caches; never results/ or figures/"
	@echo "PYTHON=python3.12 with any of these chooses another Python, in .venv-3.12 where .venv has one of another version"

env: $(READY)

figures: $(READY)
	@$(RUN) figures $(if $(PROFILE),--profile "$(PROFILE)") $(ONLY_ARG) $(JOBS_ARG) $(call switch,$(FRESH),--fresh)

reproduce: $(READY)
	@$(RUN) reproduce $(if $(PROFILE),--profile "$(PROFILE)") $(ONLY_ARG) $(JOBS_ARG) $(call switch,$(FRESH),--fresh)

test: $(READY)
	@$(RUN) test $(JOBS_ARG)

lab: $(READY)
	@$(RUN) lab

render: $(READY)
	@$(RUN) render $(ONLY_ARG) $(JOBS_ARG)

bench: $(READY)
	@$(RUN) bench $(ONLY_ARG)

audit: $(READY)
	@$(RUN) audit

book: $(READY)
	@$(RUN) book

doctor: $(READY)
	@$(RUN) doctor

# The stamp is written last, so an interrupted installation is taken up again.
$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c "import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))" || { \
	  echo "$(PYTHON) is $$($(PYTHON) --version 2>&1); spatialkit needs Python 3.11, 3.12 or 3.13." >&2; \
	  echo "Name one, as in: make $(or $(MAKECMDGOALS),env) PYTHON=python3.12" >&2; exit 1; }
	@echo "making the environment $(VENV) with $$($(PYTHON) --version): about two minutes, 2 GB" >&2
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[all]'
	@touch $@

clean:
	rm -rf build .pytest_cache .ruff_cache .mypy_cache .hypothesis *.egg-info
	find . -path './.venv*' -prune -o \( -name __pycache__ -o -name .ipynb_checkpoints \) -type d -exec rm -rf {} +

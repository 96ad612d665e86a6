# Two commands do all their own set-up: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

# A study is a dozen processes: none compiles again what another one has.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test faults check docs browser wheelhouse airgapped lock clean

demo: .venv/.installed-all
	$(BIN)/feat-fed demo $(ARGS)

# Three workers on two cores, for whole studies wait a lot; a file of tests at a time in each, in order.
test: .venv/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

# All faults one after the other, half an hour on two cores; ARGS="SuperLink killed" for some.
faults: .venv/.installed-dev
	PYTHONPATH=tests OMP_NUM_THREADS=1 $(BIN)/python -m faults $(ARGS)

check: .venv/.installed-dev docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Into site/; a warning is an error. The variable turns off a notice of the theme's about MkDocs 2.
docs: .venv/.installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

# The report's browser test uses the system's Chromium and is skipped without one.
browser:
	command -v chromium >/dev/null || { apt-get update -qq && apt-get install -qq -y chromium; }

# All that an installation needs, for machines without a network: EXTRA=server, client or all.
wheelhouse: | .venv/bin/python
	$(BIN)/python deploy/wheelhouse/build.py $(or $(EXTRA),all) wheelhouse

# Installs it and runs the demonstration in a network namespace that leads nowhere.
airgapped: wheelhouse
	PYTHON=$(PYTHON) sh deploy/wheelhouse/trial.sh wheelhouse $(ARGS)

# What the images install, with the SHA-256 of each file. TORCH_INDEX="--find-links FOLDER" where the
# CPU build of torch lies in a folder.
TORCH_INDEX ?= --extra-index-url https://download.pytorch.org/whl/cpu
LOCK = $(BIN)/uv pip compile --quiet --upgrade --generate-hashes --no-annotate \
  --custom-compile-command 'make lock' --index-strategy unsafe-best-match \
  --python-version 3.11 --python-platform x86_64-manylinux_2_28 -c constraints.txt pyproject.toml
lock: .venv/.installed-dev
	$(LOCK) --extra server $(TORCH_INDEX) -o deploy/docker/server.lock
	$(LOCK) --extra client $(TORCH_INDEX) -o deploy/docker/client-cpu.lock
	$(LOCK) --extra client -o deploy/docker/client-cuda.lock

clean:
	rm -rf .venv build dist site wheelhouse *.egg-info

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "feat-fed needs Python 3.11 or newer: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv .venv

.venv/.installed-all: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) -e '.[all]'
	@touch $@

.venv/.installed-dev: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) -e '.[dev]'
	@touch $@ .venv/.installed-all

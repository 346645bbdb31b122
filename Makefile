# Tasks of this repository: `make` lists them. Everything runs in .venv, which the first target that needs it makes.
# Works in GNU and BSD make, so: no functions, no conditionals.

PYTHON ?= python3
VENV = .venv/bin/python
STAMP = .venv/installed
# The generated project's own settings are no TOML before they are rendered: ruff must not look for them.
CHECK = $(VENV) -m ruff check --config pyproject.toml
FORMAT = $(VENV) -m ruff format --config pyproject.toml
WORKERS ?= 3

.PHONY: help demo test test-quick check fix lock versions chaos benchmark gallery clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' Makefile | awk -F '|' '{ printf "make %-12s%s\n", $$1, $$2 }'

# runs/ is all of an earlier demo that cannot be made again: it stays, the rest is replaced.
demo: $(STAMP)  ## generate the default project into build/my-project and train it (keeps its earlier runs)
	@mkdir -p build/my-project
	@find build/my-project -mindepth 1 -maxdepth 1 ! -name runs -exec rm -rf {} +
	$(VENV) -m cookiecutter . --no-input --default-config --accept-hooks no --overwrite-if-exists \
		--output-dir build project=my-project
	$(VENV) -m pip install --quiet -r build/my-project/requirements.txt
	cd build/my-project && ../../$(VENV) train.py
	@echo 'To use these commands: cd build/my-project && . ../../.venv/bin/activate'

# A file's tests share what they have trained, so they stay on one worker; tests/conftest.py says which files begin.
PYTEST = $(VENV) -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test: $(STAMP)  ## run every test, and name the slowest
	$(PYTEST) --durations 15

test-quick: $(STAMP)  ## run the tests that train nothing
	$(PYTEST) -m "not slow"

check: $(STAMP)  ## lint, check the formatting and the types; changes nothing
	$(CHECK) .
	$(FORMAT) --check .
	$(VENV) -m pytest -q --tb short tests/test_render.py -k mypy

fix: $(STAMP)  ## repair what ruff can, and format
	$(CHECK) --fix .
	$(FORMAT) .

lock: $(STAMP)  ## pin the newest versions that the ranges allow, and show the difference
	$(VENV) scripts/lock.py

versions: $(STAMP)  ## run the training tests with the newest and the lowest versions of the ranges: gigabytes
	$(VENV) scripts/versions.py

chaos: $(STAMP)  ## kill runs at 60 random moments, resume them, compare with one never killed
	$(VENV) tests/chaos.py --kills 50
	$(VENV) tests/chaos.py --kills 10 --processes 2

benchmark: $(STAMP)  ## time the generated project beside a hand-written loop
	$(VENV) benchmarks/run.py

gallery: $(STAMP)  ## train every task; make docs/gallery.md and the pictures of the README
	$(VENV) scripts/gallery.py

clean:  ## remove .venv, build/ (with the demo's runs) and caches
	rm -rf .venv build .hypothesis .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The template's folder is matched by * because BSD make expands its braces. The stamp is written last: a failed
# install is tried again. --clear mends an environment that was left half made or has lost its Python. pip
# 25.1 and newer show how far an installation is.
$(STAMP): requirements-dev.txt
	@command -v $(PYTHON) >/dev/null || \
		{ echo "error: $(PYTHON) not found; name a Python 3.11 or newer: make PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("error: $(PYTHON) is Python %d.%d; " \
		"name a Python 3.11 or newer: make PYTHON=/path/to/python" % sys.version_info[:2])'
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "error: $(PYTHON) cannot make environments; install its venv module (Debian: python3-venv)" >&2; exit 1; }
	@$(VENV) -c 'import pip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		$(PYTHON) -m venv --clear .venv
	@echo "Installing the pinned packages into .venv: minutes the first time, seconds later."
	@rm -f $(STAMP)
	$(VENV) -m pip install --quiet 'pip>=25.1'
	$(VENV) -m pip install --disable-pip-version-check -r requirements-dev.txt
	@touch $(STAMP)

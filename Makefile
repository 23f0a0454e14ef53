# Newcomers: `make dream` from nothing to a report; `make test` the gate that CI runs too.
# The simulator, PyBullet, has wheels up to Python 3.11; with a newer Python everything else works.
PYTHON ?= $(shell for p in python3.11 python3; do \
	if $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then echo $$p; break; fi; done)
BIN := .venv/bin
STAMP := .venv/set-up

.PHONY: setup dream test clean

setup: $(STAMP)

$(STAMP): pyproject.toml setup.py worldmodel/kernel.c
	@if [ -z "$(PYTHON)" ]; then echo "Python 3.11 or newer is needed (3.11 for the simulator)" >&2; exit 1; fi
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -e '.[dev]'
	@touch $(STAMP)

dream: setup
	$(BIN)/dream --hours 0.16

test: setup
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/python -m pytest -n 2 --dist loadfile

clean:
	rm -rf .venv build dist *.egg-info worldmodel/_kernel*.so .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

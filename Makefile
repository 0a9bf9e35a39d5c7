# make demo   set up .venv, train a small Griffin on Shakespeare and serve it (stop with Ctrl-C)
# make test   set up .venv and run every test
# make quick  two thirds of the tests, in 2 minutes
# make browser  the tests of the server's page in headless Chromium, which it installs (580 MB)
# make docs   the documentation as a site, in docs/_build/html
# make lint   ruff and pyright
# make clean  remove .venv and the caches; runs/ stays
#
# Any Python from 3.11 on will do: PYTHON=/path/to/python chooses one. 3.11 gets the exact versions
# of requirements.lock, another one the newest that pyproject.toml admits.

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
LIBTPU := $(VENV)/libtpu/.ready
CANDIDATES := $(if $(PYTHON),$(PYTHON),python3.11 python3.12 python3.13 python3 python)
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check

.PHONY: demo test quick browser docs lint clean venv
.DELETE_ON_ERROR:

demo: $(READY)
	$(BIN)/griffin demo

test: $(READY) $(LIBTPU)
	$(BIN)/python -m pytest -n 2 --dist worksteal -q -rs

quick: $(READY)
	$(BIN)/python -m pytest -n 2 --dist worksteal -q -m "not slow and not gpu and not long"

# Not a part of `make test`: Playwright and Chromium take 580 MB.
browser: $(READY)
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || \
	  { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; } || { \
	    echo "error: there is no Chromium, and apt-get cannot install it here: install one." >&2; \
	    exit 1; \
	  }
	$(PIP) -e '.[browser]'
	$(BIN)/python -m pytest -q -rs tests/serving/http/page

docs: $(READY)
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

venv: $(READY) $(LIBTPU)

# The stamp is written last. Without it, whatever lies in .venv is a set-up that was interrupted,
# and is laid anew; with it, a changed pyproject.toml or lock only brings .venv up to date.
$(READY): pyproject.toml requirements.lock
	@python=; if [ -e $(READY) ]; then rm $(READY); else \
	  for candidate in $(CANDIDATES); do \
	    if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	      python=$$candidate; break; \
	    fi; \
	  done; \
	  if [ -z "$$python" ]; then \
	    echo "error: griffin-lm needs Python 3.11 or newer; none among: $(CANDIDATES)." >&2; \
	    echo "       Install one, or name it: make PYTHON=/path/to/python $(MAKECMDGOALS)" >&2; \
	    exit 1; \
	  fi; \
	  echo "Setting up $(VENV) with $$("$$python" --version): about 1 GB, a few minutes."; \
	  "$$python" -m venv --clear $(VENV) || { \
	    echo "error: $$python cannot make a virtual environment (on Debian: install python3-venv)." >&2; \
	    exit 1; \
	  }; \
	fi
	@if $(BIN)/python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))'; then \
	  $(PIP) -c requirements.lock -e '.[dev]'; \
	else \
	  echo "$$($(BIN)/python --version) is not the 3.11 of requirements.lock:" \
	    "installing the newest versions that pyproject.toml admits."; \
	  $(PIP) --upgrade --upgrade-strategy eager -e '.[dev]'; \
	fi
	@touch $(READY)

# The TPU compiler, in a folder of its own: where it can be imported, JAX looks for a TPU.
$(LIBTPU): $(READY)
	@libtpu=$$($(BIN)/python -c "import importlib.metadata as m; \
	  print(next(r.split(';')[0] for r in m.requires('jax') if r.startswith('libtpu')))"); \
	$(PIP) --no-deps --upgrade --target $(VENV)/libtpu "$$libtpu" || \
	  echo "No $$libtpu for this platform: the tests that compile for TPUs are skipped."
	@mkdir -p $(VENV)/libtpu && touch $(LIBTPU)

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis build docs/_build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Both `make demo` and `make test` work in a fresh clone: they make .venv and install what they need into it.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
DEMO ?= demo
WEB_MODULES = web/node_modules/.package-lock.json
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test check docs bench gpu-check web test-web clean

demo: $(VENV)/.demo
	@mkdir -p $(DEMO)
	$(BIN)/sar2opt-data simulate $(DEMO)/scene.tif --overwrite
	$(BIN)/sar2opt-scene $(DEMO)/scene.tif $(DEMO)/mosaic.tif --preview $(DEMO)/mosaic.png --overwrite
	@echo "the mosaic is $(DEMO)/mosaic.tif, its picture $(DEMO)/mosaic.png"

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n auto --dist loadfile

# On a machine with an NVIDIA GPU: tests marked gpu, parity of every precision, and the time of a whole scene. OPTIONS
# may be those of `python -m bench gpu-check`, as in `make gpu-check OPTIONS="--device cpu"`, a dry run.
gpu-check: $(VENV)/.dev
	$(BIN)/python -m bench gpu-check $(OPTIONS)

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The documentation in site/, without a warning; it opens from the folder and asks no other host.
docs: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --clean

bench: $(VENV)/.dev
	$(BIN)/python -m bench engines
	$(BIN)/python -m bench scene
	$(BIN)/python -m bench training

# The browser demo in web/dist, a static folder, and the viewer's page in sar2optical/viewer/static, which is committed.
# Needs Node.js 20 or newer.
web: $(VENV)/.demo $(WEB_MODULES)
	$(BIN)/python web/prepare.py
	npm --prefix web run build
	npm --prefix web run build:viewer

# The demo and the viewer in Chromium, beside sar2opt-scene. CHROMIUM=... names another executable than /usr/bin/chromium.
test-web: $(VENV)/.dev $(WEB_MODULES)
	$(BIN)/python web/prepare.py
	$(BIN)/python web/golden/make.py
	$(BIN)/python web/golden/viewer.py
	npm --prefix web run build
	npm --prefix web run build:viewer
	npm --prefix web run unit
	npm --prefix web run browser
	npm --prefix web run browser:viewer
	$(BIN)/python web/golden/compare.py

clean:
	rm -rf $(VENV) $(DEMO) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
	rm -rf web/node_modules web/dist web/public web/generated web/golden/out web/test-results

# Made again when the dependencies change, not when the code does: the install is editable.
$(VENV)/.demo: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing into $(VENV), a minute or so"
	$(PIP) -e '.[cpu]'
	@touch $@

$(WEB_MODULES): web/package-lock.json
	npm --prefix web ci --no-audit --no-fund

# torch first, by itself: otherwise what depends on it may pull in another build.
$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing into $(VENV), a few minutes"
	$(PIP) torch
	$(PIP) -e '.[dev]'
	@touch $@

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

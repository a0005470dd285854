# make demo   set up and show a molecule move          make test      set up, lint, types, contracts, tests
# make gui    set up and open the desktop application  make test-gpu  GPU tests (needs CUDA)
# make bench  benchmark tables
# TORCH chooses the build: a CPU-only torch that is already in $(VENV), or one named here, is left alone.

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
BIN := $(VENV)/bin
# Processes that the tests are spread over.
WORKERS ?= 2
# 3D tests need a screen with OpenGL: a virtual one, where xvfb is installed.
SCREEN := xvfb-run -a -s "-screen 0 1400x900x24 +extension GLX"

# Lint and the 3D tests run beside the other tests, which often wait for a process or a window.
MAKEFLAGS += --jobs=3

.PHONY: demo gui test lint unit offscreen display test-gpu bench clean

$(BIN)/.installed: setup.cfg pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -c 'import torch' 2>/dev/null || $(BIN)/python -m pip install '$(TORCH)'
	$(BIN)/python -m pip install -e '.[gui,umap,gpu]'
	touch $@

# The tools of tests and lint, which running the program does not need.
$(BIN)/.test-tools: $(BIN)/.installed
	$(BIN)/python -m pip install -e '.[gui,umap,gpu,test]'
	touch $@

demo: $(BIN)/.installed
	$(BIN)/gaussianem demo demo

gui: $(BIN)/.installed
	$(BIN)/gaussianem gui

lint: $(BIN)/.test-tools
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Each worker takes neighbouring tests, which share what a module's fixtures made, and then some of a slower worker's.
offscreen: $(BIN)/.test-tools
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not display"

display: $(BIN)/.test-tools
	if command -v xvfb-run >/dev/null; then \
	OMP_NUM_THREADS=1 QT_QPA_PLATFORM=xcb $(SCREEN) $(BIN)/python -m pytest -m display tests/gui; \
	else echo "xvfb-run is not installed: the 3D tests were left out"; fi

unit: offscreen display

test: lint unit

test-gpu: $(BIN)/.test-tools
	$(BIN)/python -m pytest -m gpu -o addopts= tests

bench: $(BIN)/.installed
	$(BIN)/python tests/benchmarks/training.py

clean:
	rm -rf $(VENV) build *.egg-info

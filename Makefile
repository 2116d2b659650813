# Sets up .venv from exact pins, then tests, checks or demonstrates the project. `make` alone says what there is.
# Every target can be interrupted and run again; what is done is not done twice.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help venv test lint demo doctor pins clean

VENV   := .venv
PY     := $(VENV)/bin/python
UV     := $(VENV)/bin/uv
UV_PIN := uv==0.13.8

# The interpreter of a new .venv: the first that is new enough for the pins, or the one you name (make PYTHON=python3.12).
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for python in python3.11 python3 python3.12 python3.13; do \
	$$python -c '$(NEW_ENOUGH)' 2>/dev/null && echo $$python && break; done)

# More threads than this only get into one another's way on tensors as small as the mini world's.
export OMP_NUM_THREADS ?= $(shell cores=$$(nproc 2>/dev/null || echo 2); echo $$((cores < 4 ? cores : 4)))
export MPLBACKEND ?= Agg
export DETECTRON2_DATASETS ?= datasets
export PYTHONUNBUFFERED := 1
# This tree's code, also where the tree was copied or moved together with its .venv.
export PYTHONPATH := $(CURDIR)

help:
	@echo 'make demo     train, evaluate and show mini DK-DETR (13 minutes on 2 cores; goes on where it stopped)'
	@echo 'make test     run the test suite                    (make test ARGS="-k matching" for some of it)'
	@echo 'make lint     check style and types'
	@echo 'make doctor   say what is installed and found, and how to mend what is not'
	@echo 'make venv     only set up .venv (the others do so by themselves; PYTHON=… names the interpreter)'
	@echo 'make pins     resolve requirements*.txt anew from setup.py (UPGRADE=--upgrade for the newest versions)'
	@echo 'make clean    remove .venv and caches; datasets/ and output/ stay'

# ---- the environment ----

# The stamp carries a checksum of the pins: a changed pin is installed, a touched file is not.
READY := $(VENV)/.ready-$(shell cat requirements*.txt | cksum | cut -d ' ' -f 1)

# A Detectron2 that someone built from source into .venv stays: ours would overwrite its files.
OWN_DETECTRON2 := import importlib.metadata; importlib.metadata.version("detectron2")

# An install that was interrupted may have left half a package, so it starts over; a finished one is brought up to date.
$(READY):
	@test -n "$(PYTHON)" || { echo 'No Python 3.11 or newer found. Name one: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11'; exit 1; }
	@$(PYTHON) -c '$(NEW_ENOUGH)' || { echo 'The pinned packages need Python 3.11 or newer; $(PYTHON) is' \
		"$$($(PYTHON) --version 2>&1). Name another: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 1; }
	@test ! -e $(VENV)/.unfinished || rm -rf $(VENV)
	@mkdir -p $(VENV) && touch $(VENV)/.unfinished && rm -f $(VENV)/.ready-*
	@test -x $(PY) || { echo "Setting up $(VENV) with $$($(PYTHON) --version)"; $(PYTHON) -m venv $(VENV); } || { \
		echo '$(PYTHON) cannot make environments; on Debian and Ubuntu: apt-get install python3-venv'; exit 1; }
	$(PY) -m pip install --quiet --disable-pip-version-check $(UV_PIN)
	$(UV) pip install --python $(PY) --no-deps -r requirements.txt -r requirements-dev.txt
	$(PY) -c '$(OWN_DETECTRON2)' 2>/dev/null || $(UV) pip install --python $(PY) --no-deps --no-build-isolation \
		-C=--global-option=build_py -C=--build-option=--skip-build -r requirements-detectron2.txt
	$(UV) pip install --python $(PY) --no-deps --no-build-isolation --editable .
	@rm $(VENV)/.unfinished && touch $@

venv: $(READY)

COMPILE = $(UV) pip compile --quiet --universal --python-version 3.11 --no-annotate --custom-compile-command 'make pins' \
	--no-emit-package opencv-python --override $(VENV)/overrides.txt setup.py

# lvis asks for opencv-python, which needs a window system; setup.py asks for its headless twin instead. Gradio asks for a
# pillow below 13, and works with 13.
pins: $(READY)
	echo pillow >$(VENV)/overrides.txt
	$(COMPILE) $(UPGRADE) --output-file requirements.txt
	echo '# What the checks need beyond requirements.txt; written by `make pins`.' >requirements-dev.txt
	$(COMPILE) --extra dev --constraint requirements.txt | grep -vxFf requirements.txt >>requirements-dev.txt

# ---- checks ----

# A process for each core, four at most, with one thread each; the tests of a file stay together. ARGS="-n 0" is one process.
test: $(READY)
	OMP_NUM_THREADS=1 $(PY) -m pytest --numprocesses $(OMP_NUM_THREADS) --dist loadfile $(ARGS)

lint: $(READY)
	$(PY) -m ruff check .
	$(PY) -m mypy

doctor: $(READY)
	@$(PY) tools/doctor.py

# ---- the demonstration: each step is done when its file is there; removing that file does the step again ----

WORLD      := $(DETECTRON2_DATASETS)/mini_lvis
CLIP       := output/mini/clip
VOCABULARY := output/mini/vocabulary.npz
DETECTOR   := output/mini/dk_detr_mask

$(WORLD)/.done: | $(READY)
	@echo '[1/5] mini world -> $(WORLD)'
	$(PY) tools/make_mini_lvis.py --output $(WORLD)
	@touch $@

$(CLIP)/.done: $(WORLD)/.done | $(READY)
	@echo '[2/5] mini CLIP -> $(CLIP)'
	$(PY) tools/train_clip.py --data $(WORLD) --config configs/mini/mini_clip.json --output $(CLIP)
	@touch $@

$(VOCABULARY): $(CLIP)/.done | $(READY)
	@echo '[3/5] vocabulary -> $(VOCABULARY)'
	$(PY) tools/build_vocabulary.py --annotations $(WORLD)/annotations/mini_lvis_test.json \
		--architecture configs/mini/mini_clip.json --weights $(CLIP)/mini_clip.pt --output $@

$(DETECTOR)/.done: $(VOCABULARY) | $(READY)
	@echo '[4/5] mini DK-DETR with masks -> $(DETECTOR)'
	$(PY) tools/train_net.py --config-file configs/mini/dk_detr_mask.yaml --resume
	@touch $@

demo: $(DETECTOR)/.done
	@echo '[5/5] what it learned'
	$(PY) tools/show_run.py $(DETECTOR)

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache build dk_detr.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

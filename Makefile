# PYTHON makes the virtual environment, which sees its packages, so that a torch that is there is
# used. VENV may be one that is there already; without VENV_FLAGS a new one sees no other packages.
PYTHON ?= python3
VENV ?= .venv
VENV_FLAGS ?= --system-site-packages
DEMO ?= demo
# Config keys and values for the demo's training, MODEL.DEVICE cuda for example.
TRAIN_OPTS ?=
PY := $(VENV)/bin/python
BODYPARTS := $(VENV)/bin/bodyparts
QUICK_START := configs/quick_schedules/synthetic_quick_start.yaml
TRUTH := $(DEMO)/datasets/synthetic/synthetic_val.bodyparts-7.json

.PHONY: demo demo-trained demo-shipped test lint bench clean

$(PY):
	$(PYTHON) -m venv $(VENV_FLAGS) $(VENV)

$(VENV)/installed: setup.py pyproject.toml | $(PY)
	$(PY) -m pip install --quiet --editable '.[dev]'
	touch $@

# For the demo: the base install, and onnx, which writes the trained model.
$(VENV)/installed-base: setup.py pyproject.toml | $(PY)
	$(PY) -m pip install --quiet --editable . onnx
	touch $@

# Find people on unseen synthetic pictures, measure it and draw it; with Detectron2 by a model that
# is trained first, else by the one that comes with the package.
demo: $(VENV)/installed-base
	@if $(PY) -c 'import sys; from importlib.util import find_spec as f; sys.exit(not f("detectron2"))'; \
	then $(MAKE) --no-print-directory demo-trained; \
	else echo 'Detectron2 is not installed in $(VENV): no training, the shipped model is run.'; \
	$(MAKE) --no-print-directory demo-shipped; fi

# $(1): a file that `bodyparts export` wrote
define FIND_PEOPLE
	$(BODYPARTS) predict --dataset $(TRUTH) --model $(1) --output $(DEMO)/found
	$(BODYPARTS) evaluate --annotations $(TRUTH) --predictions $(DEMO)/found/predictions.json
	$(BODYPARTS) predict $(DEMO)/datasets/synthetic/images/val_00000?.jpg --model $(1) \
	  --output $(DEMO)/pictures --page
endef

demo-trained: export DETECTRON2_DATASETS = $(DEMO)/datasets
demo-trained:
	$(PY) datasets/prepare_synthetic.py
	$(PY) train_net.py --config-file $(QUICK_START) OUTPUT_DIR $(DEMO)/output $(TRAIN_OPTS)
	$(BODYPARTS) export $(DEMO)/bodyparts.onnx --config-file $(QUICK_START) \
	  --weights $(DEMO)/output/model_final.pth
	$(call FIND_PEOPLE,$(DEMO)/bodyparts.onnx)

demo-shipped:
	$(PY) datasets/prepare_synthetic.py --root $(DEMO)/datasets/synthetic --split val
	$(call FIND_PEOPLE,detectron2_bodyparts/models/bodyparts.onnx)

# Set up and pass the tests. Those that need Detectron2 are skipped, with a line, where it is not.
test: $(VENV)/installed
	$(PY) -m pytest -q -m 'not slow'

lint: $(VENV)/installed
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

# Our ways and their alternatives in turns, on one thread; fails where a reach is missed.
bench: $(VENV)/installed
	OMP_NUM_THREADS=1 $(PY) -W ignore benchmarks/run.py --json benchmarks.json --plots docs

clean:
	rm -rf .venv $(DEMO) build *.egg-info

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

# For the shipped model: BodyPix's and MoveNet Thunder's TensorFlow.js models; where Detectron2
# trains; datasets' folder.
BODYPIX ?= bodypix/model-stride16.json
MOVENET ?= movenet-thunder/model.json
DEVICE ?= cpu
# The model that teaches parts, beside BodyPix: by default the one that is in the package.
TEACHER ?= detectron2_bodyparts/models/bodyparts.onnx
DETECTRON2_DATASETS ?= datasets
MODEL := configs/bodyparts_rcnn_mobilenet_v1_075_FPN.yaml
PRETRAINING := configs/bodyparts_rcnn_mobilenet_v1_075_FPN_pretraining.yaml
MODEL_OUTPUT ?= output/mobilenet_v1_075

.PHONY: demo demo-trained model test lint bench clean

$(PY):
	$(PYTHON) -m venv $(VENV_FLAGS) $(VENV)

$(VENV)/installed: setup.py pyproject.toml | $(PY)
	$(PY) -m pip install --quiet --editable '.[dev]'
	touch $@

# For the demo: the base install, and onnx, which writes the trained model.
$(VENV)/installed-base: setup.py pyproject.toml | $(PY)
	$(PY) -m pip install --quiet --editable . onnx
	touch $@

# Find people with the shipped model on the two photographs that come with it. With Detectron2, train
# one on synthetic pictures, too, measure it on unseen ones and draw these.
demo: $(VENV)/installed-base
	$(BODYPARTS) predict detectron2_bodyparts/models/*.jpg --output $(DEMO)/photographs --page --json
	@if $(PY) -c 'import sys; from importlib.util import find_spec as f; sys.exit(not f("detectron2"))'; \
	then $(MAKE) --no-print-directory demo-trained; \
	else echo 'Detectron2 is not installed in $(VENV): no training.'; fi

demo-trained: export DETECTRON2_DATASETS = $(DEMO)/datasets
demo-trained:
	$(PY) datasets/prepare_synthetic.py
	$(PY) train_net.py --config-file $(QUICK_START) OUTPUT_DIR $(DEMO)/output $(TRAIN_OPTS)
	$(BODYPARTS) export $(DEMO)/bodyparts.onnx --config-file $(QUICK_START) \
	  --weights $(DEMO)/output/model_final.pth
	$(BODYPARTS) predict --dataset $(TRUTH) --model $(DEMO)/bodyparts.onnx --output $(DEMO)/found
	$(BODYPARTS) evaluate --annotations $(TRUTH) --predictions $(DEMO)/found/predictions.json
	$(BODYPARTS) predict $(DEMO)/datasets/synthetic/images/val_00000?.jpg \
	  --model $(DEMO)/bodyparts.onnx --output $(DEMO)/pictures --page

# The shipped model, from data to the exported file (docs/model_card.md). What is there is not made
# again, and training goes on where it was; large blocks of memory are kept, because getting them anew
# at every step costs a CPU much of its time.
PPP := $(DETECTRON2_DATASETS)/pascal_person_part/pascal_person_part
LSPET := $(DETECTRON2_DATASETS)/lspet/lspet
CLOTHING := $(DETECTRON2_DATASETS)/clothing_co_parsing/clothing_co_parsing
VOC := $(DETECTRON2_DATASETS)/voc/voc
model: export MALLOC_MMAP_THRESHOLD_ = 4000000000
model: export MALLOC_TRIM_THRESHOLD_ = 8000000000
model: export DETECTRON2_DATASETS := $(DETECTRON2_DATASETS)
model: $(MODEL_OUTPUT)/pretraining/model_final.pth
	$(PY) train_net.py --resume --config-file $(MODEL) OUTPUT_DIR $(MODEL_OUTPUT) \
	  MODEL.WEIGHTS $< MODEL.DEVICE $(DEVICE) $(TRAIN_OPTS)
	$(BODYPARTS) export $(MODEL_OUTPUT)/bodyparts.onnx --half --config-file $(MODEL) \
	  --weights $(MODEL_OUTPUT)/model_final.pth
	$(BODYPARTS) quantize $(MODEL_OUTPUT)/bodyparts_int8.onnx $(PPP)_train_sides.bodyparts-11.json \
	  --model $(MODEL_OUTPUT)/bodyparts.onnx

$(MODEL_OUTPUT)/pretraining/model_final.pth: $(MODEL_OUTPUT)/backbone.pth \
    $(PPP)_train_sides.bodyparts-11.json $(PPP)_val.pascal-person-part.json \
    $(LSPET)_train_taught.bodyparts-11.json $(CLOTHING)_train_taught_sides.bodyparts-11.json \
    | $(VOC)_trainval_rest.bodyparts-11.json
	$(PY) train_net.py --resume --config-file $(PRETRAINING) OUTPUT_DIR $(@D) \
	  MODEL.WEIGHTS $< MODEL.DEVICE $(DEVICE) $(TRAIN_OPTS)

$(MODEL_OUTPUT)/backbone.pth: $(BODYPIX) | $(VENV)/installed
	mkdir -p $(MODEL_OUTPUT)
	$(PY) -m detectron2_bodyparts.modeling.bodypix $(BODYPIX) $@

$(PPP)_train_sides.bodyparts-11.json: $(MOVENET) | $(VENV)/installed
	$(PY) datasets/prepare_pascal_person_part.py --schema bodyparts-11
	$(PY) datasets/prepare_sides.py --teacher $(MOVENET)

$(PPP)_val.pascal-person-part.json: | $(VENV)/installed
	$(PY) datasets/prepare_pascal_person_part.py --schema pascal-person-part --split val

$(LSPET)_train_taught.bodyparts-11.json: $(BODYPIX) | $(VENV)/installed
	$(PY) datasets/prepare_lsp.py --schema bodyparts-11
	$(PY) datasets/prepare_lsp.py --schema bodyparts-11 --split train --derive-parts
	$(PY) datasets/prepare_taught_parts.py --dataset lspet --bodypix $(BODYPIX) \
	  --weights $(TEACHER) --device $(DEVICE)

$(CLOTHING)_train_taught_sides.bodyparts-11.json: $(BODYPIX) $(MOVENET) | $(VENV)/installed
	$(PY) datasets/prepare_clothing_co_parsing.py --schema bodyparts-11
	$(PY) datasets/prepare_taught_parts.py --dataset clothing_co_parsing --bodypix $(BODYPIX) \
	  --weights $(TEACHER) --device $(DEVICE)
	$(PY) datasets/prepare_sides.py --dataset clothing_co_parsing --split train_taught \
	  --teacher $(MOVENET)

# Without the pictures that have parts already or are tested on.
PPP_LISTS := $(addprefix $(DETECTRON2_DATASETS)/pascal_person_part/,train.txt test.txt)
$(VOC)_trainval_rest.bodyparts-11.json: | $(VENV)/installed
	$(PY) datasets/prepare_voc.py --schema bodyparts-11 --split trainval --leave-out $(PPP_LISTS)

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

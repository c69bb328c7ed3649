# A virtual environment that sees the machine's packages, so that a torch that is there is used.
PYTHON ?= python3
VENV ?= .venv
DEMO ?= demo
PY := $(VENV)/bin/python
DETECTRON2 := git+https://github.com/facebookresearch/detectron2.git
QUICK_START := configs/quick_schedules/synthetic_quick_start.yaml

.PHONY: demo test lint clean

$(VENV)/installed: setup.py pyproject.toml
	$(PYTHON) -m venv --system-site-packages $(VENV)
	$(PY) -m pip install --quiet --editable '.[dev]'
	touch $@

# Set up, draw synthetic people, train on them, evaluate, draw what is found on unseen pictures.
demo: $(VENV)/installed
	@$(PY) -c 'import detectron2' 2>/dev/null || { \
	  echo 'Detectron2 is not installed; trying its public address ...'; \
	  $(PY) -m pip install --quiet '.[train]' && \
	  $(PY) -m pip install --quiet --no-build-isolation '$(DETECTRON2)'; } || { \
	  echo 'make demo needs Detectron2, which could not be installed: see "Install" in README.md.'; \
	  exit 1; }
	DETECTRON2_DATASETS=$(DEMO)/datasets $(PY) datasets/prepare_synthetic.py
	DETECTRON2_DATASETS=$(DEMO)/datasets $(PY) train_net.py --config-file $(QUICK_START) \
	  OUTPUT_DIR $(DEMO)/output
	$(VENV)/bin/bodyparts predict $(DEMO)/datasets/synthetic/images/val_00000?.jpg \
	  --config-file $(QUICK_START) --weights $(DEMO)/output/model_final.pth \
	  --output $(DEMO)/pictures --page

# Set up and pass the tests. Those that need Detectron2 are skipped, with a line, where it is not.
test: $(VENV)/installed
	$(PY) -m pytest -q -m 'not slow'

lint: $(VENV)/installed
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

clean:
	rm -rf $(VENV) $(DEMO) build *.egg-info

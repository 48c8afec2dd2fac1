# make demo    install, augment the sample set, train a small U-Net on it, show where everything is
# make test    install what the tests need, run them
# Both keep their environment in VENV; Jittor's compiled core lasts as long as that folder stays where it is.
PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python

.PHONY: demo test
.DELETE_ON_ERROR:

demo: $(VENV)/installed
	$(PY) MakeData.py sample
	$(PY) DataAugmentation.py --img_path ./data/sample/train/imgs --mask_path ./data/sample/train/labels --sum 2 \
	    --alpha_lv 2.0 --sigma_lv 0.08 --alpha_affine_lv 0.08
	$(PY) Main.py --Data_directory ./data/sample --base_channels 16 --Total_epochs 12 --Val_epochs 3

test: $(VENV)/installed-dev
	$(PY) -m pytest

$(VENV)/installed: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/installed-dev: requirements-dev.txt $(VENV)/installed
	$(PY) -m pip install --disable-pip-version-check -r requirements-dev.txt
	touch $@

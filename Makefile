# make demo    install, augment the sample set, train a small U-Net on it, show where everything is
# make test    install what the tests need, run them
# make stress  20 minutes: what takes longer: kills at random moments, signals in every phase, 10,000 pairs, 2,000 steps, a full disk
# make align   install PyTorch, compare each net with its PyTorch twin, in small; docs/ has it in full (see alignment/)
# make bench   install PyTorch, measure ours beside it: speed, memory, start, data, growth; half an hour on 2 cores
# All keep their environment in VENV; Jittor's compiled core lasts as long as that folder stays where it is.
PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --disable-pip-version-check -c requirements/constraints.txt

.PHONY: demo test stress align bench augmented-sample
.DELETE_ON_ERROR:

demo: augmented-sample
	$(PY) Main.py --Data_directory ./data/sample --base_channels 16 --Total_epochs 12 --Val_epochs 3

test: $(VENV)/installed-dev
	$(PY) -m pytest

stress: $(VENV)/installed-dev
	$(PY) -m pytest tests/stress -s -v --durations=0

align: augmented-sample $(VENV)/installed-align
	$(PY) -m pytest alignment benchmarks
	$(PY) alignment/Operators.py
	$(PY) alignment/Compare.py --mode Unet --base_channels 16 --tile 64 --epochs 2 --Result_directory results/alignment
	$(PY) alignment/Compare.py --mode U2netS --tile 128 --epochs 0 --steps 5 --Result_directory results/alignment
	$(PY) alignment/Compare.py --mode U2net --tile 128 --epochs 0 --steps 5 --Result_directory results/alignment

bench: $(VENV)/installed-align
	$(PY) benchmarks/Bench.py

augmented-sample: $(VENV)/installed
	$(PY) MakeData.py sample
	$(PY) DataAugmentation.py --img_path ./data/sample/train/imgs --mask_path ./data/sample/train/labels --sum 2 \
	    --alpha_lv 2.0 --sigma_lv 0.08 --alpha_affine_lv 0.08

$(VENV)/installed: requirements.txt requirements/constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) -r requirements.txt
	touch $@

$(VENV)/installed-dev $(VENV)/installed-align: $(VENV)/installed-%: requirements/%.txt requirements/annotations.txt $(VENV)/installed
	$(PIP) -r $<
	touch $@

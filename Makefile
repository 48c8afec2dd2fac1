# make demo    install, augment the sample set, train a small U-Net on it, show where everything is
# make test    install what the tests need, run them
# make stress  20 minutes: what takes longer: kills at random moments, signals in every phase, 10,000 pairs, 2,000 steps, a full disk
# make align   install PyTorch and ONNX Runtime, compare each net with its PyTorch twin, in small, and test the exports; docs/ has it
#              in full (see alignment/)
# make bench   install PyTorch, ONNX Runtime and OpenVINO, measure ours beside them: speed, memory, start, data, growth;
#              half an hour on 2 cores
# make gpu-gate  compile all that is for a GPU and run it on a stand-in, without a GPU (tests/gpu/README.md)
# make gpu-check, make gpu-bench, make gpu-train SET=ISBC2012 MODE=Unet
#              on a GPU: check, measure beside PyTorch, train; 10 minutes each at most, once installed (docs/gpu.md);
#              GPU_OUT keeps the results
# make wheels  bring the packages of these three into wheels/, for a machine without a network
# gpu-check, gpu-bench and gpu-train keep their environment in GPU_VENV, the others in VENV.  Jittor's compiled core lasts as long
# as that folder stays where it is.
PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --disable-pip-version-check -c requirements/constraints.txt

.PHONY: demo test stress align bench augmented-sample gpu-gate gpu-check gpu-bench gpu-train gpu-ready wheels
.DELETE_ON_ERROR:

demo: augmented-sample
	$(PY) Main.py --Data_directory ./data/sample --base_channels 16 --Total_epochs 12 --Val_epochs 3

test: $(VENV)/installed-dev
	$(PY) -m pytest

stress: $(VENV)/installed-dev
	$(PY) -m pytest tests/stress -s -v --durations=0

gpu-gate: $(VENV)/installed-dev
	PYTHONPATH=. $(PY) tests/gpu/install.py
	$(PY) -m pytest tests/gpu -v --durations=0

align: augmented-sample $(VENV)/installed-align
	$(PY) -m pytest alignment benchmarks
	$(PY) alignment/Operators.py
	$(PY) alignment/Compare.py --mode Unet --base_channels 16 --tile 64 --epochs 2 --Result_directory results/alignment
	$(PY) alignment/Compare.py --mode U2netS --tile 128 --epochs 0 --steps 5 --Result_directory results/alignment
	$(PY) alignment/Compare.py --mode U2net --tile 128 --epochs 0 --steps 5 --Result_directory results/alignment

bench: $(VENV)/installed-rivals
	$(PY) benchmarks/Bench.py

# The PyTorch beside which ours is timed is the one that PYTHON has.  GPU_PY=python3 takes a Python as it is, and installs nothing.
# GPU_FLAGS: more flags of benchmarks/Gpu.py.  GPU_REQUIREMENTS: requirements/device.txt alone where CUDA and cuDNN are there already.
GPU_VENV ?= .venv-gpu
GPU_OUT ?= results/gpu
GPU_REQUIREMENTS ?= requirements/device.txt requirements/gpu.txt
DATA ?= data
SET ?= ISBC2012
MODE ?= Unet
ifdef GPU_PY
gpu-ready:
else
GPU_PY := $(GPU_VENV)/bin/python
gpu-ready: $(GPU_VENV)/installed
endif

gpu-check: gpu-ready
	$(GPU_PY) benchmarks/Gpu.py check --Result_directory $(GPU_OUT) $(GPU_FLAGS)

gpu-bench: gpu-ready
	$(GPU_PY) benchmarks/Gpu.py bench --Result_directory $(GPU_OUT) $(GPU_FLAGS)

# DEFAULT=1: three minutes of Main.py's defaults
gpu-train: gpu-ready
	$(GPU_PY) benchmarks/Gpu.py train --Result_directory $(GPU_OUT) --Data_directory $(DATA)/$(SET) --mode $(MODE) \
	    $(if $(DEFAULT),--plain --Time_budget 3) $(GPU_FLAGS)

$(GPU_VENV)/installed: $(GPU_REQUIREMENTS) requirements.txt requirements/constraints.txt
	$(PYTHON) -m venv --system-site-packages $(GPU_VENV)
	$(PYTHON) -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > $$(echo $(GPU_VENV)/lib/python3*/site-packages)/beside.pth
	$(GPU_VENV)/bin/python -m pip install --disable-pip-version-check -c requirements/constraints.txt \
	    $(addprefix -r ,$(GPU_REQUIREMENTS))
	touch $@

# PyPI has Jittor as a source package alone, so its wheel is built here.  BRING: what to bring besides, lists of packages or
# a few packages as NAME==VERSION.
WHEELS_FOR ?= 3.12
BRING ?= -r requirements/device.txt -r requirements/constraints.txt
LINUX := $(foreach n,5 12 17 24 26 27 28 31 34,--platform manylinux_2_$(n)_x86_64) --platform manylinux1_x86_64 --platform manylinux2014_x86_64
wheels:
	$(PYTHON) -m pip wheel --no-deps -w wheels $$(grep '^jittor==' requirements.txt)
	$(PYTHON) -m pip download --no-deps --only-binary=:all: --python-version $(WHEELS_FOR) --implementation cp $(LINUX) \
	    --find-links wheels -d wheels $(BRING)

augmented-sample: $(VENV)/installed
	$(PY) MakeData.py sample
	$(PY) DataAugmentation.py --img_path ./data/sample/train/imgs --mask_path ./data/sample/train/labels --sum 2 \
	    --alpha_lv 2.0 --sigma_lv 0.08 --alpha_affine_lv 0.08

$(VENV)/installed: requirements.txt requirements/constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) -r requirements.txt
	touch $@

$(VENV)/installed-dev $(VENV)/installed-align $(VENV)/installed-rivals: $(VENV)/installed-%: requirements/%.txt requirements/annotations.txt $(VENV)/installed
	$(PIP) -r $<
	touch $@

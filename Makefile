# Every task of this project; CI calls the same.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TRITON := .venv-triton
JOBS ?= 2

.PHONY: serve test test-processors compile-kernels check format format-check lint types docs bench bench-gpu bench-gpu-first example-real-model image image-test clean

serve: $(READY)  ## serve on 127.0.0.1:8000
	$(BIN)/rope-service serve

# a file of tests stays in one process, in the order in which all are listed: long ones come early
test: $(READY)  ## run the suite
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

# torch has a set of functions for each kind of processor, and each rounds in its own way; kernels
# are interpreted by NumPy, which asks no such variable
test-processors: $(READY)  ## the golden and numeric tests as on processors that are not this one
	for each in default avx2; do \
		ATEN_CPU_CAPABILITY=$$each $(BIN)/python -m pytest -q -n 2 -k "not fused" \
			tests/core tests/test_ulp.py || exit 1; \
	done

check: format-check lint types $(TRITON)/.ready test  ## everything that CI checks

compile-kernels: $(READY) $(TRITON)/.ready  ## every kernel of attention for all GPUs, by both tritons: hours on two cores
	$(BIN)/python -m tests.kernels.compiled all $(JOBS)
	PYTHONPATH=$(TRITON) $(BIN)/python -m tests.kernels.compiled all $(JOBS)

format: $(READY)  ## write the code as the formatter wants it
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

format-check: $(READY)
	$(BIN)/ruff format --check .

lint: $(READY)
	$(BIN)/ruff check .

types: $(READY)
	$(BIN)/mypy

docs: $(READY)  ## write the generated parts of the documentation, and the descriptors of gRPC
	$(BIN)/python docs/protocol.py
	$(BIN)/python -m docs.generate

bench: $(READY)  ## the tables of docs/performance.md; needs wrk, h2load and taskset
	$(BIN)/python -m benchmarks.core
	$(BIN)/python -m benchmarks.service
	$(BIN)/python -m benchmarks.protocol

bench-gpu:  ## the kernels on a CUDA device, with a PYTHON that has torch and triton for it
	PYTHONPATH=. $(PYTHON) -m benchmarks.gpu

bench-gpu-first:  ## the first time on a CUDA device: facts, answers, speeds, failures in 330 s
	PYTHONPATH=. $(PYTHON) -m benchmarks.gpu_first

DOCKER ?= docker

image:  ## build the container image
	DOCKER_BUILDKIT=1 $(DOCKER) build --tag rope-service:dev .

image-test: $(READY)  ## build, run and stop the image; skips where no Docker engine answers
	DOCKER=$(DOCKER) $(BIN)/python tests/deploy/image.py

EXAMPLE := .venv-example
example-real-model: $(READY) $(EXAMPLE)/.ready  ## text from a real model, attention by the service
	$(BIN)/python examples/with_service.py $(EXAMPLE)/bin/python examples/real_model.py

# without dependencies: the file lists all of them, but for a compiler's worth that is not needed
$(EXAMPLE)/.ready: examples/requirements-real-model.txt
	$(PYTHON) -m venv $(EXAMPLE)
	$(EXAMPLE)/bin/pip install --quiet torch==2.13.0
	$(EXAMPLE)/bin/pip install --quiet --no-deps -r examples/requirements-real-model.txt ./clients/python
	touch $@

# torch comes first, and pinned: any other way of asking for it may bring gigabytes of CUDA
$(READY): pyproject.toml constraints.txt clients/python/pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet torch==2.13.0
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[test]' --editable clients/python
	touch $@

# the triton of torch's CUDA wheels, beside the oldest one that is supported
$(TRITON)/.ready: Makefile
	$(PYTHON) -m pip install --quiet --no-deps --upgrade --target $(TRITON) triton==3.7.1
	touch $@

clean:
	rm -rf $(VENV) $(TRITON) $(EXAMPLE) build dist *.egg-info

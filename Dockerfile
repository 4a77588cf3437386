# One image for CPU and GPU: the torch wheel contains CUDA, the node has the driver.
# Build with BuildKit: `make image`, or DOCKER_BUILDKIT=1 docker build -t rope-service .
# No "syntax" line and no heredocs, so that the builder of an older engine can build it offline.
# Python packages are installed by the locks in deploy/requirements: `make lock` writes them.
ARG PYTHON_VERSION=3.12
ARG BASE=python:${PYTHON_VERSION}-slim-bookworm
# for a release: sha256:...
ARG BASE_DIGEST

# Docker's legacy builder runs all stages, so it stops here. BuildKit skips stages that nothing uses.
FROM ${BASE}${BASE_DIGEST:+@$BASE_DIGEST} AS needs-buildkit
RUN echo "This Dockerfile needs BuildKit. Run: DOCKER_BUILDKIT=1 docker build -t rope-service ." >&2; \
    echo "If Docker then misses buildx, install the package docker-buildx or docker-buildx-plugin." >&2; \
    exit 1

# The keys of Triton's cache depend on TRITON_DISABLE_LINE_INFO, and on whether the program `file` is
# installed: both must be the same where kernels are built and where they are looked up.
FROM ${BASE}${BASE_DIGEST:+@$BASE_DIGEST} AS base
ENV TRITON_CACHE_MANAGER=service.kernel_builds.triton_cache:KernelCache \
    TRITON_DISABLE_LINE_INFO=1

FROM base AS torch
# another build or version of torch, which the lock does not have: installed without hashes
ARG TORCH_SPEC
# mirrors and local wheels; pip's defaults if unset
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
ARG PIP_TRUSTED_HOST
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
# pip stays in this stage
RUN python -m venv /opt/pip && python -m venv --without-pip /opt/torch
COPY deploy/requirements/torch.txt /requirements/
# pip compiles modules (a start takes 3 s instead of 7 s); C++ headers and tests are not needed.
RUN --mount=type=cache,target=/root/.cache/pip \
    sed -nE '/^(torch|triton|nvidia|cuda)/d; s/^([a-z0-9-]+==[^ ]+).*/\1/p' /requirements/torch.txt > /requirements/others.txt \
    && /opt/pip/bin/pip --python /opt/torch/bin/python install --only-binary :all: \
        ${TORCH_SPEC:---require-hashes --requirement /requirements/torch.txt} \
        ${TORCH_SPEC:+--constraint /requirements/others.txt} \
    && rm -rf /opt/torch/lib/python*/site-packages/torch/include /opt/torch/lib/python*/site-packages/torch/test

# The image itself needs no compiler. Debian's own Python has its headers in a separate package.
FROM torch AS compiler
RUN headers=$(python -c "import sysconfig; print(sysconfig.get_path('include', 'posix_prefix'))") \
    && apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev \
    && if [ ! -e "$headers/Python.h" ]; then apt-get install -y --no-install-recommends python3-dev; fi \
    && rm -rf /var/lib/apt/lists/*

# Triton's C extension; nothing if torch installs no Triton.
FROM compiler AS driver
RUN mkdir -p /opt/rope/triton /opt/stub
COPY service/__init__.py /src/service/
COPY service/kernel_builds/__init__.py service/kernel_builds/triton_cache.py /src/service/kernel_builds/
COPY deploy/build_cuda_utils.py /src/deploy/
RUN if ls -d /opt/torch/lib/python*/site-packages/triton; then \
        PYTHONPATH=/src TRITON_CACHE_DIR=/opt/rope/triton \
        /opt/torch/bin/python /src/deploy/build_cuda_utils.py /opt/stub; \
    fi

# The wheel of the service, with the compiled rotation.
FROM compiler AS wheel
WORKDIR /src
COPY deploy/requirements/wheel.txt /requirements/
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/pip/bin/pip install --only-binary :all: --require-hashes --requirement /requirements/wheel.txt
COPY . .
RUN /opt/pip/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheel . \
    && /opt/pip/bin/python -m zipfile --list /wheel/*.whl > /files.txt \
    && grep _rotary.abi3.so /files.txt

# Gigabytes of torch are a separate layer, which a new release of the service does not change.
FROM torch AS service
RUN python -m venv --without-pip /opt/rope \
    && echo /opt/torch/lib/python*/site-packages > "$(echo /opt/rope/lib/python*/site-packages)/torch.pth"
COPY deploy/requirements/service.txt /requirements/
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/pip/bin/pip --python /opt/rope/bin/python install \
        --only-binary :all: --require-hashes --requirement /requirements/service.txt
COPY --from=wheel /wheel /wheel
RUN /opt/pip/bin/pip --python /opt/rope/bin/python install --no-deps /wheel/*.whl \
    && /opt/pip/bin/pip --python /opt/rope/bin/python check
COPY deploy/health_check.py /opt/rope/

# SBOM: the packages of the image, as a CycloneDX document.
FROM service AS sbom
COPY deploy/requirements/sbom.txt /requirements/
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m venv /opt/cyclonedx \
    && /opt/cyclonedx/bin/pip install --only-binary :all: --require-hashes --requirement /requirements/sbom.txt \
    && /opt/cyclonedx/bin/cyclonedx-py environment --output-reproducible --output-file /opt/rope/sbom.cdx.json /opt/rope/bin/python

# Kernels for GPUs that the machine of the build does not have.
FROM service AS kernels
# the defaults of service.kernel_builds.prebuild if unset
ARG KERNEL_TARGETS
ARG KERNEL_SHAPES
RUN mkdir -p /opt/rope/triton; \
    if ls -d /opt/torch/lib/python*/site-packages/triton; then \
        TRITON_CACHE_DIR=/opt/rope/triton /opt/rope/bin/python -m service.kernel_builds.prebuild \
        ${KERNEL_TARGETS:+--targets $KERNEL_TARGETS} ${KERNEL_SHAPES:+--shapes "$KERNEL_SHAPES"}; \
    fi

FROM base
COPY --from=torch /opt/torch /opt/torch
COPY --from=driver /opt/rope/triton /opt/rope/triton
COPY --from=service /opt/rope /opt/rope
COPY --from=kernels /opt/rope/triton /opt/rope/triton
COPY --from=sbom /opt/rope/sbom.cdx.json /opt/rope/sbom.cdx.json
# NVIDIA_*: which libraries the container runtime mounts. LD_LIBRARY_PATH: where the device plugins of
# some clouds mount them. HOME, USER and the caches: any uid may run this, also one without an entry in
# /etc/passwd. GLIBC_TUNABLES: as service.__main__.MALLOC, which saves starting twice.
ENV PATH=/opt/rope/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    LD_LIBRARY_PATH=/usr/local/nvidia/lib64:/usr/local/nvidia/lib \
    HOME=/tmp \
    USER=rope \
    TORCHINDUCTOR_CACHE_DIR=/tmp/inductor \
    TRITON_CACHE_DIR=/tmp/triton \
    GLIBC_TUNABLES=glibc.malloc.hugetlb=1:glibc.malloc.arena_max=1:glibc.malloc.mmap_threshold=4194304:glibc.malloc.trim_threshold=67108864 \
    ROPE_HTTP_HOST=0.0.0.0 \
    ROPE_HTTP_PORT=8000 \
    ROPE_GRPC_PORT=8001
USER 10001:0
EXPOSE 8000 8001
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "/opt/rope/health_check.py"]
ENTRYPOINT ["rope-service"]
CMD ["serve"]

# What the image was built from. `make image` sets these; they are last, so that all layers are cached.
ARG BASE
ARG BASE_DIGEST
ARG VERSION=0.0.0
ARG REVISION=unknown
ARG CREATED
ARG SOURCE
LABEL org.opencontainers.image.title="rope-service" \
      org.opencontainers.image.description="Rotary position embedding and RoPE-encoded attention over HTTP" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.base.name="${BASE}" \
      org.opencontainers.image.base.digest="${BASE_DIGEST}"

"""Every test that takes `backend` runs on each of them, but for the kernels: see tests/kernels."""

import pytest

from rope_core.backends import BACKENDS

PLAIN = [backend for backend in BACKENDS if backend.name != "fused"]


@pytest.fixture(params=PLAIN, ids=lambda backend: backend.name)
def backend(request):
    return request.param

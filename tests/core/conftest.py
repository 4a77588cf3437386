"""Every test that takes `backend` runs on each of them."""

import pytest

from rope_core.backends import BACKENDS


@pytest.fixture(params=BACKENDS, ids=lambda backend: backend.name)
def backend(request):
    return request.param

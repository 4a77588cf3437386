"""Where kernels run, and launchers whose kernels are not built."""

import os

import pytest
import torch

pytest.importorskip("triton")

from rope_core.backends import fused
from rope_core.builds import deferred_builds
from rope_core.kernels import attention_kernel, merge, rotary, scatter
from tests.core.oracle import DTYPES, LAYOUTS
from tests.kernels.missing_kernels import Builds

INTERPRETED = bool(os.environ.get("TRITON_INTERPRET"))


@pytest.fixture(scope="session")
def device():
    return torch.device("cpu" if INTERPRETED else "cuda")


@pytest.fixture(autouse=True)
def interpreter(request):
    if INTERPRETED:
        request.getfixturevalue("interpreted")


@pytest.fixture
def missing_kernels(monkeypatch):
    """No kernel is built."""
    for module in (rotary, merge, scatter, attention_kernel):
        monkeypatch.setattr(module.LAUNCHER, "built", {})
        monkeypatch.setattr(module.LAUNCHER, "failed", {})


@pytest.fixture
def fused_on_cpu(monkeypatch, interpreted):
    """Choose fused on the CPU without naming it, as on a GPU."""
    monkeypatch.setattr(fused, "only_named", lambda device: False)


@pytest.fixture
def builds():
    """Builds are deferred to this queue."""
    queue = Builds()
    with deferred_builds(queue):
        yield queue


@pytest.fixture(params=LAYOUTS)
def layout(request):
    return request.param


@pytest.fixture(params=DTYPES, ids=str)
def dtype(request):
    return request.param

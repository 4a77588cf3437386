"""Where kernels run: on a GPU, or in Triton's interpreter."""

import os

import pytest
import torch

pytest.importorskip("triton")

INTERPRETED = bool(os.environ.get("TRITON_INTERPRET"))


@pytest.fixture(scope="session")
def device():
    return torch.device("cpu" if INTERPRETED else "cuda")


@pytest.fixture(autouse=True)
def where_kernels_run(request):
    if INTERPRETED:
        request.getfixturevalue("interpreted")

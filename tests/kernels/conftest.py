"""Where kernels run: on a GPU, or in Triton's interpreter, put right where it does otherwise."""

import os
import warnings

import numpy as np
import pytest
import torch

pytest.importorskip("triton")

from tests.kernels.interpreter import put_right

put_right()


@pytest.fixture(scope="session")
def device():
    return torch.device("cpu" if os.environ.get("TRITON_INTERPRET") else "cuda")


@pytest.fixture(autouse=True)
def quiet():
    """NumPy would warn of every infinity, and of rows of NaN."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN", RuntimeWarning)
        yield

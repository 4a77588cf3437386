"""Kernels run in Triton's interpreter."""

import warnings

import numpy as np
import pytest

from tests.kernels.interpreter import put_right

put_right()


@pytest.fixture(autouse=True)
def quiet():
    """NumPy would warn of every infinity, and of rows of NaN."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN", RuntimeWarning)
        yield

"""Kernels run in Triton's interpreter."""

import numpy as np
import pytest

from tests.kernels.interpreter import put_right

put_right()


@pytest.fixture(autouse=True)
def quiet():
    """NumPy would warn of every infinity."""
    with np.errstate(all="ignore"):
        yield

"""Where kernels run: on a GPU, or in Triton's interpreter, put right where it does otherwise."""

import os

import numpy as np
import pytest
import torch

pytest.importorskip("triton")

import triton.language as tl
from triton.runtime import interpreter


@pytest.fixture(scope="session")
def device():
    return torch.device("cpu" if os.environ.get("TRITON_INTERPRET") else "cuda")


@pytest.fixture(autouse=True)
def as_a_gpu_does(monkeypatch):
    convert, patch_tensor = interpreter._convert_float, interpreter._patch_lang_tensor

    def convert_nearest(data, source, target, mode):
        """Round to the nearest bfloat16, where the interpreter cuts off."""
        if (source, target) != (tl.float32, tl.bfloat16):
            return convert(data, source, target, mode)
        rounded = torch.from_numpy(np.ascontiguousarray(data)).bfloat16()
        return rounded.view(torch.int16).numpy().view(np.uint16)

    def patch_index(tensor, scope):
        """Let a loop end at an argument: numpy 2.4 makes no int of an array of one."""
        patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    monkeypatch.setattr(interpreter, "_convert_float", convert_nearest)
    monkeypatch.setattr(interpreter, "_patch_lang_tensor", patch_index)

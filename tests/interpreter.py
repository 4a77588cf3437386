"""Triton's interpreter, put right where it differs from what a compiled kernel does."""

import ml_dtypes
import numpy as np
import triton.language as tl
from triton.runtime import interpreter

BUILDER = interpreter.InterpreterBuilder
_patch_lang_tensor, _cast, _dot = (
    interpreter._patch_lang_tensor,
    BUILDER.cast_impl,
    BUILDER.create_dot,
)


def patch_lang_tensor(tensor, scope):
    """A loop may end at a number that was read: numpy 2.4 makes no int of an array of one."""
    _patch_lang_tensor(tensor, scope)
    scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())


def cast(self, x, dtype):
    """What becomes bfloat16 is rounded to the nearest, not cut."""
    if x.dtype.scalar == tl.float32 and dtype.scalar == tl.bfloat16:
        return interpreter.TensorHandle(
            x.data.astype(ml_dtypes.bfloat16).view(np.uint16), tl.bfloat16
        )
    return _cast(self, x, dtype)


def dot(self, a, b, c, *given):
    """Products of bfloat16 are of what it stands for, not of its bits."""
    if a.dtype.scalar == tl.bfloat16:
        a, b = (
            interpreter.TensorHandle(x.data.view(ml_dtypes.bfloat16).astype(np.float32), tl.float32)
            for x in (a, b)
        )
    return _dot(self, a, b, c, *given)


def put_right():
    interpreter._patch_lang_tensor = patch_lang_tensor
    BUILDER.cast_impl = cast
    BUILDER.create_dot = dot

"""Triton's interpreter, put right where it differs from what a compiled kernel does.

And quicker where most of its time goes: into what it makes again for each operation.
"""

import math
from functools import cached_property, lru_cache
from types import SimpleNamespace
from typing import Any

import torch
import triton.language as tl
from triton.runtime import interpreter

BUILDER = interpreter.InterpreterBuilder
_patch_lang, _patch_lang_tensor, _cast, _dot, _np_dtype = (
    interpreter._patch_lang,
    interpreter._patch_lang_tensor,
    BUILDER.cast_impl,
    BUILDER.create_dot,
    lru_cache(interpreter._get_np_dtype),
)


def put_right() -> None:
    """Put it right, for all of the process."""
    interpreter._patch_lang = _patch
    interpreter._patch_lang_tensor = _patch_tensor
    BUILDER.cast_impl = _cast_impl
    BUILDER.create_dot = _create_dot
    interpreter.InterpretedFunction.__call__ = _call
    # each sum and product of integers is computed in 64 bits too, for an assertion that is not made
    options = interpreter.InterpreterOptions(sanitize_overflow=False)
    interpreter.interpreter_builder.options = options
    interpreter._get_np_dtype = _get_np_dtype
    tl.core.tensor.__init__ = _init_tensor
    tl.core.tuple.__init__ = _init_tuple
    tl.core.tuple.type = type_of_tuple


def _patch(kernel: Any) -> Any:
    # all of the language at once, as it takes a millisecond ...
    return _patch_lang(SimpleNamespace(__globals__={"tl": tl, "core": tl.core}))


def _call(self: Any, *args: Any, **named: Any) -> Any:
    # ... and not in each function that a kernel calls
    return self.rewrite()(*args, **named)


def _patch_tensor(tensor: Any, scope: Any) -> None:
    # a loop may end at a number that was read: numpy 2.4 makes no int of an array of one
    _patch_lang_tensor(tensor, scope)
    scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())


def _cast_impl(self: Any, x: Any, dtype: Any) -> Any:
    # what becomes bfloat16 is rounded to the nearest, not cut
    if x.dtype.scalar == tl.float32 and dtype.scalar == tl.bfloat16:
        rounded = torch.tensor(x.data).bfloat16().view(torch.int16).numpy()
        return interpreter.TensorHandle(rounded.view("uint16"), tl.bfloat16)
    return _cast(self, x, dtype)


def _create_dot(self: Any, a: Any, b: Any, c: Any, *given: Any) -> Any:
    # products of bfloat16 are of what it stands for, not of its bits
    if a.dtype.scalar == tl.bfloat16:
        wide = ((x.data.astype("uint32") << 16).view("float32") for x in (a, b))
        a, b = (interpreter.TensorHandle(data, tl.float32) for data in wide)
    return _dot(self, a, b, c, *given)


def _get_np_dtype(dtype: Any) -> Any:
    # a table of all dtypes is made each time
    return _np_dtype(tl.uint64 if dtype.scalar.is_ptr() else dtype.scalar)


def _init_tensor(self: Any, handle: Any, type: Any) -> None:
    self.handle, self.type, self.dtype = handle, type, type.scalar
    self.shape, self.numel = _shape(type.shape if type.is_block() else ())


@lru_cache
def _shape(sizes: tuple[int, ...]) -> tuple[Any, Any]:
    # neither is written to
    return tl.core.tuple([tl.constexpr(size) for size in sizes]), tl.constexpr(math.prod(sizes))


def _init_tuple(self: Any, args: Any, type: Any = None) -> None:
    self.values = [*args]
    if type is not None:
        self.type = type if isinstance(type, tl.core.tuple_type) else tl.core.tuple_type(type)


# a shape's is asked for by nobody
type_of_tuple = cached_property(lambda self: tl.core._type_for_tuple_values(self.values))
type_of_tuple.__set_name__(tl.core.tuple, "type")

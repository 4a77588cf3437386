"""Fixes of Triton's interpreter where it differs from a compiled kernel, and a faster setup.

Import this module with TRITON_INTERPRET=1 in the environment, then call `install` once.
"""

import math
from functools import cached_property, lru_cache
from types import SimpleNamespace
from typing import Any

import torch
import triton.language as tl
from triton.language.semantic import TritonSemantic
from triton.runtime import interpreter

BUILDER = interpreter.InterpreterBuilder
_patch_lang, _patch_lang_tensor, _cast, _dot, _np_dtype, _init_block, _broadcast, _cast_tensor = (
    interpreter._patch_lang,
    interpreter._patch_lang_tensor,
    BUILDER.cast_impl,
    BUILDER.create_dot,
    lru_cache(interpreter._get_np_dtype),
    tl.core.block_type.__init__,
    TritonSemantic.broadcast_impl_value,
    TritonSemantic.cast,
)


def install() -> None:
    """Patch the interpreter for the whole process."""
    interpreter._patch_lang = _patch_whole_language
    interpreter._patch_lang_tensor = _patch_tensor
    BUILDER.cast_impl = _cast_with_rounding
    BUILDER.create_dot = _dot_of_bfloat16
    interpreter.InterpretedFunction.__call__ = _call
    # the overflow check computes each integer sum and product a second time in 64 bits
    options = interpreter.InterpreterOptions(sanitize_overflow=False)
    interpreter.interpreter_builder.options = options
    interpreter._get_np_dtype = _get_np_dtype
    tl.core.tensor.__init__ = _init_tensor
    tl.core.tuple.__init__ = _init_tuple
    tl.core.tuple.type = _type_of_tuple
    tl.core.block_type.__init__ = _init_block_type
    tl.core.block_type.name = _name_of_block_type
    TritonSemantic.broadcast_impl_value = _broadcast_unless_equal
    TritonSemantic.cast = _cast_unless_equal


def _patch_whole_language(kernel: Any) -> Any:
    # patching takes a millisecond: patch the whole language once per launch
    return _patch_lang(SimpleNamespace(__globals__={"tl": tl, "core": tl.core}))


def _call(self: Any, *args: Any, **kwargs: Any) -> Any:
    # do not patch again in each function that a kernel calls
    return self.rewrite()(*args, **kwargs)


def _patch_tensor(tensor: Any, scope: Any) -> None:
    # loop bounds may be loaded values: NumPy 2.4 does not convert an array of one element to int
    _patch_lang_tensor(tensor, scope)
    scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())


def _cast_with_rounding(self: Any, x: Any, dtype: Any) -> Any:
    # round to the nearest bfloat16; the interpreter truncates
    if x.dtype.scalar == tl.float32 and dtype.scalar == tl.bfloat16:
        rounded = torch.tensor(x.data).bfloat16().view(torch.int16).numpy()
        return interpreter.TensorHandle(rounded.view("uint16"), tl.bfloat16)
    return _cast(self, x, dtype)


def _dot_of_bfloat16(self: Any, a: Any, b: Any, c: Any, *options: Any) -> Any:
    # multiply bfloat16 values; the interpreter multiplies their bit patterns as integers
    if a.dtype.scalar == tl.bfloat16:
        wide = ((x.data.astype("uint32") << 16).view("float32") for x in (a, b))
        a, b = (interpreter.TensorHandle(data, tl.float32) for data in wide)
    return _dot(self, a, b, c, *options)


def _get_np_dtype(dtype: Any) -> Any:
    # the original builds a table of all dtypes at each call
    return _np_dtype(tl.uint64 if dtype.scalar.is_ptr() else dtype.scalar)


def _init_tensor(self: Any, handle: Any, type: Any) -> None:
    self.handle, self.type, self.dtype = handle, type, type.scalar
    self.shape, self.numel = _shape(type.shape if type.is_block() else ())


@lru_cache
def _shape(sizes: tuple[int, ...]) -> tuple[Any, Any]:
    # cached, because neither value is modified
    return tl.core.tuple([tl.constexpr(size) for size in sizes]), tl.constexpr(math.prod(sizes))


def _init_tuple(self: Any, args: Any, type: Any = None) -> None:
    self.values = [*args]
    if type is not None:
        self.type = type if isinstance(type, tl.core.tuple_type) else tl.core.tuple_type(type)


# computed on demand: the type of a shape is never read
_type_of_tuple = cached_property(lambda self: tl.core._type_for_tuple_values(self.values))
_type_of_tuple.__set_name__(tl.core.tuple, "type")


def _init_block_type(self: Any, element_ty: Any, shape: Any) -> None:
    self.element_ty = element_ty
    sizes = shape.values if isinstance(shape, tl.core.tuple) else shape
    self.shape, self.numel = _block_shape(*sizes)


@lru_cache
def _block_shape(*sizes: Any) -> tuple[Any, Any]:
    # cached, because the original checks and unwraps each size of every block
    block = SimpleNamespace()
    _init_block(block, tl.float32, [*sizes])
    return block.shape, block.numel


# computed on demand: only messages of errors contain the name
_name_of_block_type = cached_property(lambda self: f"<{self.shape}, {self.element_ty}>")
_name_of_block_type.__set_name__(tl.core.block_type, "name")


def _broadcast_unless_equal(self: Any, lhs: Any, rhs: Any) -> Any:
    # blocks of one shape stay as they are: do not compare their sizes one by one
    if lhs.shape is rhs.shape:
        return lhs, rhs
    return _broadcast(self, lhs, rhs)


def _cast_unless_equal(self: Any, tensor: Any, dtype: Any, rounding: Any = None) -> Any:
    # both operands of every operator are cast, mostly to the dtype that they have
    return tensor if tensor.dtype is dtype else _cast_tensor(self, tensor, dtype, rounding)

"""Where interpreted kernels read and write: in the tensors they are given, or a test fails."""

import numpy as np
from triton.runtime import interpreter

BUILDER, EXECUTOR = interpreter.InterpreterBuilder, interpreter.GridExecutor
_load, _store, _init = (
    BUILDER.create_masked_load,
    BUILDER.create_masked_store,
    EXECUTOR._init_args_hst,
)
_spans = []


def watch(monkeypatch):
    """Raise from now on where a kernel is about to read or write beyond its tensors."""
    monkeypatch.setattr(EXECUTOR, "_init_args_hst", _note)
    monkeypatch.setattr(BUILDER, "create_masked_load", _checked_load)
    monkeypatch.setattr(BUILDER, "create_masked_store", _checked_store)


def _note(self, args, named):
    given = _init(self, args, named)
    tensors = [t for t in (*given[0], *given[1].values()) if hasattr(t, "untyped_storage")]
    _spans[:] = [_span(t) for t in tensors if t.numel()]
    return given


def _span(t):
    last = sum((size - 1) * stride for size, stride in zip(t.shape, t.stride(), strict=True))
    return t.data_ptr(), t.data_ptr() + (last + 1) * t.element_size()


def _checked_load(self, ptrs, mask, *given):
    _check(ptrs.data, mask.data)
    return _load(self, ptrs, mask, *given)


def _checked_store(self, ptrs, value, mask, *given):
    _check(ptrs.data, mask.data)
    return _store(self, ptrs, value, mask, *given)


def _check(ptrs, mask):
    at = ptrs if mask.all() else ptrs[np.broadcast_to(mask, ptrs.shape).astype(bool)]
    if at.size:
        first, last = at.min(), at.max()
        assert any(start <= first and last < end for start, end in _spans), "out of bounds"

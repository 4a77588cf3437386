"""The calls of the library and their results. A call that exists is valid.

Tensors are `[B, S, H, D]` (batch, sequence, heads, head_dim) or packed `[T, H, D]`, T tokens of one
sequence or of those that `cu_seqlens` separates. Floating point is float32, float16 or bfloat16.
Every constructor raises `ShapeError` or `ConfigError` if tensors and parameters do not fit.
"""

from rope_core.calls.attention import Attend, Attended, Merge, Sides
from rope_core.calls.fields import field_names, tensor_fields, with_fields
from rope_core.calls.length import TakenLength, taken_length
from rope_core.calls.rotation import CosSin, Rotate, Rotated, Shift, Table, table_bytes

__all__ = [
    "Attend",
    "Attended",
    "Call",
    "CosSin",
    "Merge",
    "Result",
    "Rotate",
    "Rotated",
    "Shift",
    "Sides",
    "Table",
    "TakenLength",
    "field_names",
    "table_bytes",
    "taken_length",
    "tensor_fields",
    "with_fields",
]

Call = Rotate | Attend | CosSin | Shift | Merge
Result = Rotated | Attended | Table

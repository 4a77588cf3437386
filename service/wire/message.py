"""What is on the wire: named tensors and plain parameters, whatever bytes carry them."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
    "int64": torch.int64,
    "int32": torch.int32,
}
"""The dtypes of the wire."""

MAX_RANK = 8
"""Most axes of a tensor."""

MAX_TENSORS = 16
"""Most tensors of a message."""


@dataclass(slots=True)
class Message:
    """A request or an answer."""

    tensors: Mapping[str, Tensor]

    params: bytes = b"{}"
    """The parameters, one JSON object: text, so that what is read from it can be looked up."""

    base64: bool = False
    """Where tensors travel as text: bytes in base64, not decimal numbers."""

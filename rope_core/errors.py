"""Errors of the library. Their texts are for the caller.

RopeError
  +- ConfigError     a parameter has a value that no rotation or attention has
  +- ShapeError      the shape, dtype or contents of a tensor do not fit its call
  +- NoBackend       every backend declined the call
  +- KernelNotBuilt  a kernel that the call needs is still being built; try again
  +- KernelFailed    a kernel that the call needs cannot be built
"""

import reprlib

from rope_core.miscount import Miscount


class RopeError(Exception):
    """Base of all errors of this library."""


class ConfigError(RopeError):
    """A parameter is not valid."""

    def __init__(self, parameter: str, expected: str, got: object) -> None:
        super().__init__(f"{parameter} must be {expected}, got {got}")
        self.parameter = parameter
        self.expected = expected
        self.got = got

    def nested_in(self, name: str) -> "ConfigError":
        """Return the same error for the parameter `name.parameter`."""
        return ConfigError(f"{name}.{self.parameter}", self.expected, self.got)


class ShapeError(RopeError):
    """The shape, dtype or contents of a tensor do not fit its call."""

    def __init__(
        self,
        tensor: str,
        expected: str,
        got: object,
        hint: str = "",
        miscount: Miscount | None = None,
    ) -> None:
        text = f"{tensor} must be {expected}, got {got}"
        text = text if miscount is None else f"{text}: {miscount}"
        separator = " " if miscount is not None and miscount.likely_order else ". "
        super().__init__(f"{text}{separator}{hint}" if hint else text)
        self.tensor = tensor
        self.expected = expected
        self.got = got
        self.hint = hint
        """What to do, if the cause can be told; `HEADS_FIRST` for another order of axes."""
        self.miscount = miscount
        """Which axis of q or k has another number of elements than the tensor, if one has."""


TRANSPOSE = (
    "transpose q, k and v to [B, S, H, D], in torch by .transpose(1, 2), and the result back"
)

HEADS_FIRST = f"The heads look like [B, H, S, D]: {TRANSPOSE}"
"""Hint for tensors in the order of Hugging Face's models."""


class NoBackend(RopeError):
    """Every backend declined the call."""

    def __init__(self, reasons: dict[str, str]) -> None:
        super().__init__("; ".join(f"backend {name}: {why}" for name, why in reasons.items()))
        self.reasons = reasons


class KernelNotBuilt(RopeError):
    """A kernel that the call needs is still being built."""

    def __init__(self) -> None:
        super().__init__(
            "a kernel for this call is still being built; send it again in a few seconds"
        )


class KernelFailed(RopeError):
    """A kernel that the call needs cannot be built on this machine."""


def brief(value: object) -> str:
    """Return a short text of `value`, which can be long or deeply nested."""
    return reprlib.repr(value)

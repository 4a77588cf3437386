"""What can be wrong with a call.

RopeError
  +- ConfigError   a parameter has a value that no rotation or attention has
  +- ShapeError    a tensor's shape, dtype or contents do not fit the call it is part of
  +- NoBackend     every backend declined the call
  +- KernelNotBuilt  a kernel that the call needs is being built; try again
  +- KernelFailed  a kernel that the call needs cannot be built
"""


class RopeError(Exception):
    """Base of all errors of this library; its text is meant for the caller."""


class ConfigError(RopeError):
    """A parameter has a value that no rotation or attention has."""

    def __init__(self, parameter: str, expected: str, got: object) -> None:
        super().__init__(f"{parameter} must be {expected}, got {got}")
        self.parameter = parameter
        self.expected = expected
        self.got = got

    def within(self, name: str) -> "ConfigError":
        """Return this error for a parameter that is a part of `name`."""
        return ConfigError(f"{name}.{self.parameter}", self.expected, self.got)


class ShapeError(RopeError):
    """A tensor's shape, dtype or contents do not fit the call it is part of."""

    def __init__(self, tensor: str, expected: str, got: object) -> None:
        super().__init__(f"{tensor} must be {expected}, got {got}")
        self.tensor = tensor
        self.expected = expected
        self.got = got

    def of(self, tensor: str) -> "ShapeError":
        """Return this error for a tensor that the caller knows by another name."""
        return ShapeError(tensor, self.expected, self.got)


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
    """A kernel that the call needs cannot be built here."""

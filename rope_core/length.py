"""Dynamic NTK as in transformers: frequencies depend on the longest call so far."""

from dataclasses import dataclass, replace

from rope_core.config import RopeConfig
from rope_core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class DynamicLength:
    """The length that decides the frequencies of a model after some calls.

    transformers keeps the largest table: shorter calls use it, until a call is shorter than the
    trained length. Frequencies that depend on the call alone need no state.

    >>> rope = RopeConfig.of(64, rope_type="dynamic", factor=2.0, max_position_embeddings=4096)
    >>> state = DynamicLength.of(rope).after(8192).after(5000)
    >>> state.length
    8192
    >>> state.after(4000).length
    4096
    """

    trained: int
    """max_position_embeddings."""

    length: int
    """Length of the longest call since the last call shorter than `trained`."""

    @classmethod
    def of(cls, rope: RopeConfig) -> "DynamicLength":
        """Return the state before the first call.

        Raises:
            ConfigError: the variant is not "dynamic".
        """
        if rope.rope_type != "dynamic":
            raise ConfigError("rope_type", '"dynamic"', repr(rope.rope_type))
        trained = int(dict(rope.parameters)["max_position_embeddings"])  # type: ignore[arg-type]
        return cls(trained, trained)

    def after(self, length: int) -> "DynamicLength":
        """Return the state after a call of `length` positions."""
        if length > self.length:
            return replace(self, length=length)
        if length < self.trained:
            return replace(self, length=self.trained)
        return self

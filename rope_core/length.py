"""Dynamic NTK as transformers runs it: frequencies that remember the longest call."""

from dataclasses import dataclass, replace

from rope_core.config import RopeConfig
from rope_core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class DynamicLength:
    """The length that a model's frequencies are for, after some calls.

    transformers keeps the largest table: a shorter call goes on using it, until one is shorter
    than the trained length. A pure function of the call needs none of this.

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
    """The longest call since the last one that was shorter than that."""

    @classmethod
    def of(cls, rope: RopeConfig) -> "DynamicLength":
        """Return the state of a model that has seen no call.

        Raises:
            ConfigError: the variant is not dynamic.
        """
        if rope.rope_type != "dynamic":
            raise ConfigError("rope_type", '"dynamic"', repr(rope.rope_type))
        trained = int(dict(rope.parameters)["max_position_embeddings"])  # type: ignore[arg-type]
        return cls(trained, trained)

    def after(self, length: int) -> "DynamicLength":
        """Return the state after a call that reaches over `length` positions."""
        if length > self.length:
            return replace(self, length=length)
        if length < self.trained:
            return replace(self, length=self.trained)
        return self

"""The parameters of each route: their types, defaults and descriptions."""

from functools import cached_property, lru_cache
from typing import Literal

from pydantic import BaseModel, ConfigDict

from rope_core import AttentionConfig, ConfigError, Layout, RopeConfig


class _Params(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True
    )


class Rope(_Params):
    """How to rotate."""

    head_dim: int | None = None
    """Width of one head; that of the tensor where missing."""

    rotary_dim: int | None = None
    """Leading elements of a head that are rotated, even; all of them where missing."""

    theta: float = 10_000.0
    """Base of the geometric progression of wavelengths."""

    layout: Layout = "half"
    """Pairs are (i, i + rotary_dim/2), or (2i, 2i + 1)."""

    rope_type: Literal["default"] = "default"
    """Name of the variant."""

    def config(self, head_dim: int | None) -> RopeConfig:
        """Return the library's value, for tensors of `head_dim`, or for tables where None."""
        widths = (self.head_dim, head_dim, self.rotary_dim)
        width = next((width for width in widths if width is not None), None)
        if width is None:
            raise ConfigError("rope.head_dim", "given where no tensor has it", "none")
        return _config(width, self.rotary_dim, self.theta, self.layout)


@lru_cache(maxsize=1024)
def _config(head_dim: int, rotary_dim: int | None, theta: float, layout: Layout) -> RopeConfig:
    return RopeConfig.of(head_dim, rotary_dim=rotary_dim, theta=theta, layout=layout)


class RotateParams(_Params):
    """Parameters of `/v1/rotate`."""

    rope: Rope = Rope()

    inverse: bool = False
    """Rotate back."""


class RopeParams(_Params):
    """Parameters of `/v1/cos_sin` and `/v1/shift`."""

    rope: Rope = Rope()


class AttentionParams(_Params):
    """Parameters of `/v1/attention`."""

    rope: Rope | None = Rope()
    """null rotates nothing (a NoPE layer)."""

    causal: bool = True
    """Hide later keys, aligned bottom-right: the last query sees the last key."""

    window: int | None = None
    """Key j is visible to query i when 0 <= i - j < window."""

    softcap: float | None = None
    """Scores become softcap * tanh(score / softcap)."""

    scale: float | None = None
    """Multiplier of the scores; head_dim ** -0.5 where missing."""

    return_lse: bool = False
    """Answer the log-sum-exp of each query's scores, too."""

    @cached_property
    def config(self) -> AttentionConfig:
        """The library's value."""
        return AttentionConfig(
            causal=self.causal, window=self.window, softcap=self.softcap, scale=self.scale
        )


class NoParams(_Params):
    """`/v1/merge` has none."""

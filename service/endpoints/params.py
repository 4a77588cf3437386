"""The parameters of each route: their types, defaults and descriptions."""

from dataclasses import fields, replace
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import Field

from rope_core import AttentionConfig
from rope_core.backends import BACKENDS
from rope_core.positions import BUILDERS
from service.endpoints.rope_params import AnyRope, Params, Rope

MAX_INDEX = 2**62 - 1
"""Of a token; two of them are no further apart than int64 can tell."""

Offset = Annotated[int, Field(ge=-MAX_INDEX - 1, le=MAX_INDEX)]
Stride = Annotated[int, Field(ge=1, le=MAX_INDEX)]


class Computed(Params):
    """Parameters of what backends do."""

    backend: Literal[*(each.name for each in BACKENDS)] | None = None  # type: ignore[valid-type]
    """Which backend shall do it, where the operator lets requests choose; the service chooses
    where missing."""


class RotateParams(Computed):
    """Parameters of `/v1/rotate`."""

    rope: AnyRope = Rope()

    inverse: bool = False
    """Rotate back."""


class CosSinParams(Params):
    """Parameters of `/v1/cos_sin`."""

    rope: AnyRope = Rope()


class ShiftParams(Computed):
    """Parameters of `/v1/shift`."""

    rope: AnyRope = Rope()

    to: AnyRope | None = None
    """What the keys shall be rotated by from now on, where frequencies change; needs positions."""


class ResolveParams(Params):
    """Parameters of `/v1/resolve`."""

    rope: AnyRope


class PositionsParams(Params):
    """Parameters of `/v1/positions`."""

    builder: Literal[*BUILDERS]  # type: ignore[valid-type]
    """Name of the builder; `/v1/variants` lists them."""

    arguments: dict[str, Any] = Field(default={})
    """Its arguments that are no tensors."""


class AttentionParams(Computed):
    """Parameters of `/v1/attention`."""

    rope: AnyRope | None = Rope()
    """null rotates nothing (a NoPE layer)."""

    causal: bool = True
    """Hide later keys, aligned bottom-right: the last query sees the last key."""

    window: int | None = None
    """Key j is visible to query i when -window_ahead <= i - j < window."""

    window_ahead: int = 0
    """Later keys that a window shows; needs a window, and causal to be false."""

    chunk: int | None = None
    """Key j is visible to query i only in its own chunk: i // chunk == j // chunk."""

    softcap: float | None = None
    """Scores become softcap * tanh(score / softcap)."""

    scale: float | None = None
    """Multiplier of the scores; head_dim ** -0.5 where missing."""

    return_lse: bool = False
    """Answer the log-sum-exp of each query's scores, too."""

    out_dtype: Literal["float32"] | None = None
    """Answer out in float32, to be merged; in q's dtype where missing."""

    q_offset: Offset | None = None
    """Query i of each sequence is at place q_offset + i of it; the last at the last key's where
    missing."""

    k_offset: Offset | None = None
    """Key i of each sequence is at place k_offset + k_stride * i of it; 0 where missing."""

    k_stride: Stride = 1
    """Places from one key to the next."""

    @cached_property
    def config(self) -> AttentionConfig:
        """The library's value."""
        return self.over(AttentionConfig())

    def over(self, model: AttentionConfig) -> AttentionConfig:
        """Return how a model attends, with what the request says instead."""
        return replace(
            model, **{name: getattr(self, name) for name in self.model_fields_set & OF_MODELS}
        )


OF_MODELS = frozenset(field.name for field in fields(AttentionConfig))
"""Parameters that a model's config may say."""


class MergeParams(Computed):
    """Parameters of `/v1/merge`."""

"""The parameters of each route: their types, defaults and descriptions."""

from dataclasses import fields, replace
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import Field

from rope_core import AttentionConfig
from rope_core.backends import BACKENDS
from rope_core.calls import Sides
from rope_core.diagnosis.diagnose import MAX_TOLERANCE
from rope_core.positions import BUILDERS
from service.endpoints.rope_params import AnyRope, Params, Rope

MAX_INDEX = 2**62 - 1
"""Largest index of a token: the difference of two fits into int64."""

Offset = Annotated[int, Field(ge=-MAX_INDEX - 1, le=MAX_INDEX)]
Stride = Annotated[int, Field(ge=1, le=MAX_INDEX)]


class BackendParams(Params):
    """Base of the parameters of calls that a backend runs."""

    backend: Literal[*(backend.name for backend in BACKENDS)] | None = None  # type: ignore[valid-type]
    """Backend that runs the call; refused unless the operator lets requests choose. By default the
    service chooses."""


class LayoutParams(BackendParams):
    """Base of the parameters of calls on tensors of heads."""

    tensor_layout: Literal["bshd", "bhsd"] = "bshd"
    """Order of the axes of q, k, v and of the answer: `bshd` is [B, S, H, D], or [T, H, D] if
    packed; `bhsd` is [B, H, S, D], as in transformers."""


class RotateParams(LayoutParams):
    """Parameters of `/v1/rotate`."""

    rope: AnyRope = Rope()
    """How to rotate: an object with parameters, a model's config or a preset, or the name of a
    preset."""

    inverse: bool = False
    """Rotate back, by the negative angle."""


class CosSinParams(Params):
    """Parameters of `/v1/cos_sin`."""

    rope: AnyRope = Rope()
    """How to rotate: an object with parameters, a model's config or a preset, or the name of a
    preset."""


class ShiftParams(LayoutParams):
    """Parameters of `/v1/shift`."""

    rope: AnyRope = Rope()
    """How to rotate: an object with parameters, a model's config or a preset, or the name of a
    preset."""

    to: AnyRope | None = None
    """New rope of the keys, if their frequencies change; needs `positions`."""


class ResolveParams(Params):
    """Parameters of `/v1/resolve`."""

    rope: AnyRope
    """How to rotate: an object with parameters, a model's config or a preset, or the name of a
    preset."""


class CompareParams(Params):
    """Parameters of `/v1/compare`."""

    rope: AnyRope | None
    """One rope: an object with parameters, a model's config or a preset, or the name of a preset.
    null: rotate nothing."""

    other: AnyRope | None
    """The other rope, in the same forms."""


class PositionsParams(Params):
    """Parameters of `/v1/positions`."""

    builder: Literal[*BUILDERS]  # type: ignore[valid-type]
    """Name of the builder; `/v1/variants` lists all."""

    arguments: dict[str, Any] = Field(default={})
    """Arguments of the builder that are not tensors."""


class AttentionParams(LayoutParams):
    """Parameters of `/v1/attention`."""

    rope: AnyRope | None = Rope()
    """How to rotate: an object with parameters, a model's config or a preset, or the name of a
    preset. null: rotate nothing (a NoPE layer)."""

    rotate: Sides = "both"
    """What is rotated: `q` if the keys are rotated already, as in a cache, `k` if the queries are,
    `none` if both are."""

    causal: bool = True
    """Hide later keys, aligned bottom-right: the last query sees the last key."""

    window: int | None = None
    """Key j is visible to query i when -window_ahead <= i - j < window."""

    window_ahead: int = 0
    """Number of later keys that a window shows; needs a window, and causal false."""

    chunk: int | None = None
    """Key j is visible to query i only in its own chunk: i // chunk == j // chunk."""

    softcap: float | None = None
    """Scores become softcap * tanh(score / softcap)."""

    scale: float | None = None
    """Multiplier of the scores; by default head_dim ** -0.5."""

    return_lse: bool = False
    """Also return the log-sum-exp of the scores of each query."""

    out_dtype: Literal["float32"] | None = None
    """Return out in float32, to be merged; by default in the dtype of q."""

    q_offset: Offset | None = None
    """Query i of each sequence has the index q_offset + i; by default the last query has the index
    of the last key."""

    k_offset: Offset | None = None
    """Key i of each sequence has the index k_offset + k_stride * i; by default k_offset is 0."""

    k_stride: Stride = 1
    """Difference between the indices of one key and the next."""

    @cached_property
    def config(self) -> AttentionConfig:
        """The library's value, where no model's config has one."""
        return self.override(AttentionConfig())

    def override(self, model: AttentionConfig) -> AttentionConfig:
        """Return the value of a model's config, replaced where the request has parameters."""
        names = self.model_fields_set & MODEL_PARAMS
        return replace(model, **{name: getattr(self, name) for name in names})


class DiagnoseParams(AttentionParams):
    """Parameters of `/v1/diagnose`."""

    rope: AnyRope | None
    """How the numbers should be rotated: an object with parameters, a model's config or a preset,
    or the name of a preset. null: not at all (a NoPE layer)."""

    max_mistakes: Literal[1, 2] = 2
    """Most mistakes that explain the numbers together."""

    tolerance: Annotated[float, Field(gt=0, le=MAX_TOLERANCE)] | None = None
    """Largest relative error that is not a difference; by default that of the dtype
    (docs/diagnose.md)."""


MODEL_PARAMS = frozenset(field.name for field in fields(AttentionConfig))
"""Parameters that a model's config may have."""


class MergeParams(LayoutParams):
    """Parameters of `/v1/merge`."""

"""How to rotate and how to attend: frozen values, valid once they exist."""

from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from rope_core.axes import SCHEMES, Columns, Spectra
from rope_core.errors import ConfigError
from rope_core.frequencies import VARIANTS
from rope_core.registry import Parameters

Layout = Literal["half", "interleaved", "interleaved_to_half", "interleaved_tiled"]
Arithmetic = Literal["float64", "hf"]
Rounding = Literal["once", "float32", "complex", "tables", "activation", "float64"]
Values = Literal["kept", "rotated", "and_back"]
Learned = Literal["frequencies", "log_scale"]

MAX_HEAD_DIM = 8_192
"""Widest head accepted, in elements; wider ones are a client's mistake, not a model."""

FASTEST = 1e18
"""Greatest frequency: float32 holds its product with any position."""

LEAST_GAIN = 1e-6
"""Least gain of cosine and sine that can be undone in float32; its inverse is the greatest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeConfig:
    """Everything that decides the rotation of a token at a given position.

    The value as a whole is the key of every cache in the library, so two configurations that
    differ anywhere never share a table.

    Raises:
        ConfigError: a field is out of its range.
    """

    head_dim: int
    """Width of one head, in elements."""

    rotary_dim: int
    """Elements of a head that are rotated; the rest pass through. Even."""

    theta: float = 10_000.0
    """Base of the geometric progression of wavelengths (RoFormer, 2021, section 3.2.2)."""

    layout: Layout = "half"
    """Which elements form a pair: (i, i + rotary_dim/2) as in GPT-NeoX and Hugging Face's Llama,
    or (2i, 2i + 1) as in GPT-J and Meta's Llama. `interleaved_to_half` reads neighbours and writes
    halves (DeepSeek-V3); `interleaved_tiled` turns neighbours by the angles of halves (V-JEPA 2,
    no rotation)."""

    rope_type: str = "default"
    """The variant: a name of `VARIANTS`."""

    parameters: Parameters = ()
    """The variant's own."""

    axes: str | None = None
    """The scheme of several axes: a name of `SCHEMES`, or None for one axis."""

    axes_parameters: Parameters = ()
    """The scheme's own."""

    learned: Learned | None = None
    """What a call brings along: `frequencies` themselves (Mochi), or the logarithm of a factor for
    each (Mistral-Large-4)."""

    frequency_dim: int | None = None
    """Width that exponents run over where that is not rotary_dim (it may be odd)."""

    trailing: bool = False
    """Rotate the last rotary_dim elements of a head instead of the first."""

    blocks: int = 1
    """Equal parts of the rotated elements, each of which has the layout for itself."""

    negative: bool = False
    """Rotate by minus the angle (nanochat)."""

    whole_positions: bool = False
    """Positions look up a table (GPT-J, RoFormer): they are whole, and none is negative."""

    arithmetic: Arithmetic = "float64"
    """How angles are computed: `float64` is the truth; `hf` follows transformers operation by
    operation in float32, and is bit-equal to it on the CPU."""

    rounding: Rounding = "once"
    """Where numbers are rounded. `once`: at the end, products and sums may be fused. The others are
    what transformers does, unfused: `float32`, tables and sums in it (`complex`: tables from a
    complex exponential); `tables`, cosine and sine are rounded to the dtype of q, too;
    `activation`, every product and sum is; `float64`, all in float64."""

    values: Values = "kept"
    """What attention does with v: `rotated`, as the keys (RoFormer's rotary_value, CLVP);
    `and_back`, rotated, and its output turned back at the query's position (DeepSeek-V4)."""

    needs_length: bool = field(init=False, repr=False, compare=False)
    """Whether frequencies depend on the length of the call, and none is fixed."""

    columns: Columns = field(init=False, repr=False, compare=False)
    """Frequencies, and axes, of every angle."""

    attention_scaling: float = field(init=False, repr=False, compare=False)
    """Gain of cosine and sine: 1, or what YaRN and LongRoPE say."""

    _hash: int = field(init=False, repr=False, compare=False)

    @classmethod
    def of(cls, head_dim: int, *, rotary_dim: int | None = None, **given: Any) -> "RopeConfig":
        """Build a config the short way: `RopeConfig.of(128, theta=5e5)` rotates whole heads.

        Parameters of the variant and of the scheme go by their own names:
        `RopeConfig.of(128, rope_type="linear", factor=4.0)`.
        """
        fields = {name: given.pop(name) for name in [*given] if name in _PLAIN}
        scheme = SCHEMES.get(fields.get("axes") or "")
        of_scheme = {
            name: given.pop(name) for name in [*given] if scheme and name in scheme.parameters
        }
        return cls(
            head_dim=head_dim,
            rotary_dim=head_dim if rotary_dim is None else rotary_dim,
            parameters=tuple(given.items()),
            axes_parameters=tuple(of_scheme.items()),
            **fields,
        )

    def __post_init__(self) -> None:
        _check_kinds(self)
        if not 0 < self.head_dim <= MAX_HEAD_DIM:
            raise ConfigError("head_dim", f"in [1, {MAX_HEAD_DIM}]", self.head_dim)
        if self.rotary_dim % 2 or not 0 < self.rotary_dim <= self.head_dim:
            expected = f"even and in [2, head_dim = {self.head_dim}]"
            raise ConfigError("rotary_dim", expected, self.rotary_dim)
        if not 1e-6 <= self.theta <= 1e12:  # false for NaN
            raise ConfigError("theta", "finite and in [1e-6, 1e12]", self.theta)
        if self.blocks < 1 or self.rotary_dim % (2 * self.blocks):
            raise ConfigError("blocks", f"a divisor of {self.rotary_dim // 2} pairs", self.blocks)
        if self.frequency_dim is not None and not 0 < self.frequency_dim <= MAX_HEAD_DIM:
            raise ConfigError("frequency_dim", f"in [1, {MAX_HEAD_DIM}]", self.frequency_dim)
        if self.learned is not None and self.learned not in get_args(Learned):
            raise ConfigError("learned", f"one of {get_args(Learned)}", repr(self.learned))
        for name, kind in _CHOICES.items():
            if getattr(self, name) not in get_args(kind):
                choices = " or ".join(f'"{choice}"' for choice in get_args(kind))
                raise ConfigError(name, choices, repr(getattr(self, name)))
        if self.rope_type not in VARIANTS:
            raise ConfigError("rope_type", f"one of {[*VARIANTS]}", repr(self.rope_type))
        if self.axes is not None and self.axes not in SCHEMES:
            raise ConfigError("axes", f"one of {[*SCHEMES]}", repr(self.axes))
        bound = VARIANTS[self.rope_type].bind(dict(self.parameters))
        object.__setattr__(self, "parameters", bound)
        given = dict(self.axes_parameters)
        of_axes = SCHEMES[self.axes].bind(given) if self.axes else _no_parameters(given)
        object.__setattr__(self, "axes_parameters", of_axes)
        waits = "length" in VARIANTS[self.rope_type].parameters and "length" not in dict(bound)
        object.__setattr__(self, "needs_length", waits)
        values = (getattr(self, name) for name in _COMPARED)
        object.__setattr__(self, "_hash", hash(tuple(values)))
        columns, gain = _spectrum(self)
        object.__setattr__(self, "columns", columns)
        object.__setattr__(self, "attention_scaling", gain)
        _check_columns(self)
        if self.rope_type == "xpos" and (self.num_axes > 1 or not self.is_rotation):
            raise ConfigError("rope_type", "another one than xpos, whose axis is one", "xpos")

    def __hash__(self) -> int:
        return self._hash

    @property
    def half(self) -> int:
        """Number of rotated pairs."""
        return self.rotary_dim // 2

    @property
    def num_axes(self) -> int:
        """Numbers that make up a position."""
        return self.columns.num_axes

    @property
    def is_rotation(self) -> bool:
        """Whether each pair turns as one: norms stay."""
        return self.layout != "interleaved_tiled" and self.axes != "xdrope"

    @property
    def adds_up(self) -> bool:
        """Whether R_m R_n = R_(m + n): a shift is one rotation, wherever the keys are."""
        return self.is_rotation and not self.columns.coupled

    def at(self, length: int) -> "RopeConfig":
        """Return the config for a call that reaches over `length` positions."""
        return _at(self, _settled(self, length)) if self.needs_length else self


_COMPARED = tuple(name for name, part in RopeConfig.__dataclass_fields__.items() if part.compare)
_PLAIN = frozenset(_COMPARED) - {"parameters", "axes_parameters"}
_WHOLE = ("head_dim", "rotary_dim", "blocks", "frequency_dim")
_CHOICES = {"layout": Layout, "arithmetic": Arithmetic, "rounding": Rounding, "values": Values}


def _settled(rope: RopeConfig, length: int) -> int:
    """Return one length for all that give the same frequencies."""
    given: dict[str, Any] = dict(rope.parameters)
    match rope.rope_type:
        case "longrope":
            trained: int = given["original_max_position_embeddings"]
            return trained + 1 if length > trained else trained
        case "dynamic":
            longest: int = max(length, given["max_position_embeddings"])
            return longest
    return length


@lru_cache(maxsize=256)
def _at(rope: RopeConfig, length: int) -> RopeConfig:
    return replace(rope, parameters=(*rope.parameters, ("length", length)))


@lru_cache(maxsize=256)
def _spectrum(rope: RopeConfig) -> tuple[Columns, float]:
    """Return frequencies in the dtype of the config's arithmetic, and the gain."""
    variant, given = VARIANTS[rope.rope_type].function, dict(rope.parameters)
    dtype = torch.float32 if rope.arithmetic == "hf" else torch.float64
    dim = rope.frequency_dim or rope.rotary_dim
    if rope.axes is None:
        inv_freq, gain = variant(rope.theta, dim, dtype, **given)
        return Columns(inv_freq), gain
    found: float | None = None

    def at(theta: float, width: int) -> Tensor:
        nonlocal found
        inv_freq: Tensor
        inv_freq, found = variant(theta, width, dtype, **given)
        return inv_freq

    scheme = SCHEMES[rope.axes].function
    columns = scheme(Spectra(rope.theta, dtype, at), dim, **dict(rope.axes_parameters))
    if found is None and rope.rope_type != "default":
        expected = f'"default" with {rope.axes}, whose frequencies are its own'
        raise ConfigError("rope_type", expected, repr(rope.rope_type))
    return columns, 1.0 if found is None else found


def _check_kinds(rope: RopeConfig) -> None:
    for name in _WHOLE:
        value = getattr(rope, name)
        if type(value) is not int and not (name == "frequency_dim" and value is None):
            raise ConfigError(name, "a whole number", repr(value))
    if isinstance(rope.theta, bool) or not isinstance(rope.theta, int | float):
        raise ConfigError("theta", "a number", repr(rope.theta))
    if not isinstance(rope.rope_type, str):
        raise ConfigError("rope_type", f"one of {[*VARIANTS]}", repr(rope.rope_type))
    if rope.axes is not None and not isinstance(rope.axes, str):
        raise ConfigError("axes", f"one of {[*SCHEMES]}", repr(rope.axes))


def _check_columns(rope: RopeConfig) -> None:
    inv_freq = rope.columns.inv_freq
    if len(inv_freq) not in (rope.half, rope.rotary_dim) or len(inv_freq) % rope.blocks:
        raise ConfigError("rotary_dim", f"twice the {len(inv_freq)} angles", rope.rotary_dim)
    if not bool((inv_freq.abs() <= FASTEST).all()):  # false for NaN
        expected = f"such that no frequency is above {FASTEST:g}, scaled as it is"
        raise ConfigError("theta", expected, rope.theta)
    gain = abs(rope.attention_scaling)
    if gain and not LEAST_GAIN <= gain <= 1 / LEAST_GAIN:
        expected = f"0, or such that the gain is in [{LEAST_GAIN:g}, {1 / LEAST_GAIN:g}]"
        raise ConfigError("attention_factor", expected, rope.attention_scaling)


def _no_parameters(given: dict[str, Any]) -> Parameters:
    if given:
        raise ConfigError("axes", f"given for {sorted(given)}", "none")
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionConfig:
    """How queries attend to keys.

    Raises:
        ConfigError: a field is out of its range.
    """

    causal: bool = True
    """Hide later keys. Aligned bottom-right: the last query sees the last key."""

    window: int | None = None
    """Key j is visible to query i when -window_ahead <= i - j < window, both counted from the last
    token."""

    window_ahead: int = 0
    """How many later keys a window shows (ModernBERT); needs a window, and `causal` to be false."""

    chunk: int | None = None
    """Key j is visible to query i only in its own chunk: i // chunk == j // chunk, both counted
    from the first key (Llama 4)."""

    softcap: float | None = None
    """Scaled scores become softcap * tanh(score / softcap) before the mask (Gemma 2)."""

    scale: float | None = None
    """Multiplier of the scores; head_dim ** -0.5 where None."""

    def __post_init__(self) -> None:
        if self.window is not None and not 0 < self.window < 2**31:
            raise ConfigError("window", "in [1, 2**31 - 1]", self.window)
        if not 0 <= self.window_ahead < 2**31:
            raise ConfigError("window_ahead", "in [0, 2**31 - 1]", self.window_ahead)
        if self.window_ahead and (self.causal or self.window is None):
            expected = "0 unless there is a window and causal is false"
            raise ConfigError("window_ahead", expected, self.window_ahead)
        if self.chunk is not None and not 0 < self.chunk < 2**31:
            raise ConfigError("chunk", "in [1, 2**31 - 1]", self.chunk)
        # bounds that leave float32, in which scores are, room on both sides
        if self.softcap is not None and not 1e-30 <= self.softcap <= 1e30:
            raise ConfigError("softcap", "in [1e-30, 1e30]", self.softcap)
        if self.scale is not None and not abs(self.scale) <= 1e30:
            raise ConfigError("scale", "in [-1e30, 1e30]", self.scale)

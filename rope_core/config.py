"""How to rotate and how to attend: frozen values, valid once they exist."""

from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from rope_core.axes import SCHEMES, AxisFrequencies, FrequencyTable
from rope_core.checks import check_choice, check_in_range
from rope_core.errors import ConfigError
from rope_core.frequencies import VARIANTS
from rope_core.length_dependence import LengthDependence, length_dependence
from rope_core.own_frequencies import LISTS, MAX_INV_FREQ, implied_rope_type, listed_rotary_dim
from rope_core.registry import Parameters

Layout = Literal["half", "interleaved", "interleaved_to_half", "interleaved_tiled"]
Arithmetic = Literal["float64", "hf"]
Rounding = Literal["once", "float32", "complex", "tables", "activation", "float64"]
Values = Literal["kept", "rotated", "and_back"]
Learned = Literal["frequencies", "log_scale"]

MAX_HEAD_DIM = 8_192
"""Widest head accepted, in elements; wider ones are a client's mistake, not a model."""

MAX_DISTANCE = 2**31 - 1
"""Largest window or chunk, in tokens."""

DEFAULT_THETA = 10_000.0
"""The base of RoFormer, of a rope that gives none."""

MIN_ATTENTION_SCALING = 1e-6
"""Least scaling of cosine and sine that float32 can undo. Its inverse is the greatest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeConfig:
    """Everything that decides the rotation of a token at a given position.

    `RopeConfig(head_dim=64, theta=5e5)` rotates whole heads; `RopeConfig.of` takes parameters of a
    variant by keyword.

    The value as a whole is the key of every cache in the library, so two configurations that
    differ anywhere never share a table.

    Raises:
        ConfigError: a field is out of its range.
    """

    head_dim: int
    """Width of one head, in elements."""

    rotary_dim: int = None  # type: ignore[assignment]
    """Elements of a head that are rotated; the rest pass through. Even. None: twice the number of
    given frequencies or divisors (`inv_freq`, `freq_factors`), otherwise the whole head."""

    theta: float = DEFAULT_THETA
    """Base of the geometric progression of wavelengths (RoFormer, 2021, section 3.2.2)."""

    layout: Layout = "half"
    """Which elements form a pair: (i, i + rotary_dim/2) as in GPT-NeoX and Hugging Face's Llama,
    or (2i, 2i + 1) as in GPT-J and Meta's Llama. `interleaved_to_half` reads neighbours and writes
    halves (DeepSeek-V3); `interleaved_tiled` rotates neighbours by the angles of halves (V-JEPA 2,
    no rotation)."""

    rope_type: str = "default"
    """The variant: a name of `VARIANTS`."""

    parameters: Parameters = ()
    """Parameters of the variant."""

    axes: str | None = None
    """The scheme of several axes: a name of `SCHEMES`, or None for one axis."""

    axes_parameters: Parameters = ()
    """Parameters of the scheme."""

    learned: Learned | None = None
    """What a call passes in `frequencies`: the frequencies (Mochi), or the logarithm of a factor of
    each (Mistral-Large-4)."""

    frequency_dim: int | None = None
    """Width that the exponents run over, if not rotary_dim. It may be odd."""

    trailing: bool = False
    """Rotate the last rotary_dim elements of a head instead of the first."""

    blocks: int = 1
    """Equal parts of the rotated elements. The layout applies within each."""

    negative: bool = False
    """Rotate by minus the angle (nanochat)."""

    whole_positions: bool = False
    """Positions are indices of a table (GPT-J, RoFormer): whole and not negative."""

    arithmetic: Arithmetic = "float64"
    """How angles are computed: `float64` is the truth; `hf` follows transformers operation by
    operation in float32, and is bit-equal to it on the CPU."""

    rounding: Rounding = "once"
    """Where numbers are rounded. `once`: at the end, products and sums may be fused. The others are
    what transformers does, unfused: `float32`, tables and sums in it (`complex`: tables from a
    complex exponential); `tables`, also rounds cosine and sine to the dtype of q; `activation`,
    also rounds every product and sum; `float64`, all in float64."""

    values: Values = "kept"
    """What attention does with v: `rotated`, as the keys (RoFormer's rotary_value, CLVP);
    `and_back`, rotated, and its output rotated back at the position of the query (DeepSeek-V4)."""

    depends_on_length: bool = field(init=False, repr=False, compare=False)
    """Whether the variant depends on a length, of the call or fixed."""

    needs_length: bool = field(init=False, repr=False, compare=False)
    """Whether frequencies depend on the length of the call, and none is fixed."""

    frequency_table: FrequencyTable = field(init=False, repr=False, compare=False)
    """Frequency and axis of every angle."""

    attention_scaling: float = field(init=False, repr=False, compare=False)
    """Factor of cosine and sine: 1, or that of YaRN and LongRoPE."""

    half: int = field(init=False, repr=False, compare=False)
    """Number of rotated pairs."""

    num_axes: int = field(init=False, repr=False, compare=False)
    """Numbers in the position of a token."""

    table_row_bytes: int = field(init=False, repr=False, compare=False)
    """Bytes of cos and sin of all angles of one position, and of the scale of xPos."""

    is_general: bool = field(init=False, repr=False, compare=False)
    """Whether it takes the general operator of `eager_rotary`, whatever the angles."""

    _hash: int = field(init=False, repr=False, compare=False)

    @classmethod
    def of(cls, head_dim: int, *, rotary_dim: int | None = None, **values: Any) -> "RopeConfig":
        """Build a config the short way: `RopeConfig.of(128, theta=5e5)` rotates whole heads.

        Parameters of the variant and of the scheme are keywords:
        `RopeConfig.of(128, rope_type="linear", factor=4.0)`. A list of frequencies or of their
        divisors names its variant: `RopeConfig.of(128, inv_freq=[...])`.
        """
        fields = {name: values.pop(name) for name in [*values] if name in _KEYWORDS}
        fields.setdefault("rope_type", implied_rope_type(values))
        scheme = SCHEMES.get(fields.get("axes") or "")
        names = [name for name in values if scheme and name in scheme.parameters]
        axes_parameters = tuple((name, values.pop(name)) for name in names)
        return cls(
            head_dim=head_dim,
            rotary_dim=rotary_dim,  # type: ignore[arg-type]
            parameters=tuple(values.items()),
            axes_parameters=axes_parameters,
            **fields,
        )

    def __post_init__(self) -> None:
        check_choice("rope_type", self.rope_type, tuple(VARIANTS))
        variant = VARIANTS[self.rope_type]
        parameters = variant.bind(dict(self.parameters))
        if self.rotary_dim is None:
            object.__setattr__(self, "rotary_dim", _default_rotary_dim(self, dict(parameters)))
        _check_fields(self)
        object.__setattr__(self, "half", self.rotary_dim // 2)
        axes_parameters = dict(self.axes_parameters)
        if axes_parameters and self.axes is None:
            raise ConfigError("axes", f"given for {sorted(axes_parameters)}", "none")
        bound_axes = () if self.axes is None else SCHEMES[self.axes].bind(axes_parameters)
        depends_on_length = "length" in variant.parameters
        needs_length = depends_on_length and "length" not in dict(parameters)
        object.__setattr__(self, "parameters", parameters)
        object.__setattr__(self, "axes_parameters", bound_axes)
        object.__setattr__(self, "depends_on_length", depends_on_length)
        object.__setattr__(self, "needs_length", needs_length)
        object.__setattr__(self, "_hash", hash(tuple(getattr(self, name) for name in _COMPARED)))
        table, scaling = _frequencies(self)
        object.__setattr__(self, "frequency_table", table)
        object.__setattr__(self, "num_axes", table.num_axes)
        bytes_per_angle = 12 if self.rope_type == "xpos" else 8
        object.__setattr__(self, "table_row_bytes", len(table.inv_freq) * bytes_per_angle)
        object.__setattr__(self, "attention_scaling", scaling)
        object.__setattr__(self, "is_general", _is_general(self))
        _check_frequencies(self)

    def __hash__(self) -> int:
        return self._hash

    @property
    def inv_freq(self) -> Tensor:
        """The frequencies of the angles, radians per position: `[rotary_dim / 2]`, a copy.

        float64, or float32 if `arithmetic` is "hf"; `[rotary_dim]` for XD-RoPE. Of a variant whose
        frequencies depend on the length (`needs_length`), those of `for_length`'s config, or of a
        call of length 0.
        """
        return self.frequency_table.inv_freq.clone()

    @property
    def is_rotation(self) -> bool:
        """Whether both elements of each pair rotate by one angle, so that norms do not change."""
        return self.layout != "interleaved_tiled" and self.axes != "xdrope"

    @property
    def is_composable(self) -> bool:
        """Whether R_m R_n = R_(m + n): a shift is one rotation at any position of the keys."""
        return self.is_rotation and not self.frequency_table.coupled

    @property
    def length_dependence(self) -> LengthDependence | None:
        """From which length of a call on the rotation changes; None if it never does."""
        if not self.depends_on_length:
            return None
        return length_dependence(self.rope_type, self.parameters)

    def for_length(self, length: int) -> "RopeConfig":
        """Return the config for a call with positions below `length`."""
        if not self.needs_length:
            return self
        dependence = length_dependence(self.rope_type, self.parameters)
        return _with_length(self, dependence.canonical(length))


_COMPARED = tuple(name for name, part in RopeConfig.__dataclass_fields__.items() if part.compare)
_KEYWORDS = frozenset(_COMPARED) - {"parameters", "axes_parameters"}
_CHOICES = {"layout": Layout, "arithmetic": Arithmetic, "rounding": Rounding, "values": Values}


def _is_general(rope: RopeConfig) -> bool:
    return (
        rope.rounding != "once"
        or rope.blocks != 1
        or rope.rope_type == "xpos"
        or rope.axes == "xdrope"
        or rope.layout not in ("half", "interleaved")
    )


def _default_rotary_dim(rope: RopeConfig, parameters: dict[str, Any]) -> int:
    """Return the rotary_dim of a rope that gives none."""
    listed = listed_rotary_dim(parameters)
    if listed is None or type(rope.head_dim) is not int or listed <= rope.head_dim:
        return listed or rope.head_dim
    pairs = rope.head_dim // 2
    expected = f"a list of at most {pairs} numbers, one for each pair of head_dim {rope.head_dim}"
    raise ConfigError(rope.rope_type, expected, listed // 2)


def _check_fields(rope: RopeConfig) -> None:
    for name in ("head_dim", "rotary_dim", "blocks", "frequency_dim"):
        value = getattr(rope, name)
        if type(value) is not int and not (name == "frequency_dim" and value is None):
            raise ConfigError(name, "a whole number", repr(value))
    if isinstance(rope.theta, bool) or not isinstance(rope.theta, int | float):
        raise ConfigError("theta", "a number", repr(rope.theta))
    check_in_range("head_dim", rope.head_dim, 1, MAX_HEAD_DIM)
    if rope.rotary_dim % 2 or not 0 < rope.rotary_dim <= rope.head_dim:
        expected = f"even and in [2, head_dim = {rope.head_dim}]"
        raise ConfigError("rotary_dim", expected, rope.rotary_dim)
    if not 1e-6 <= rope.theta <= 1e12:  # true for NaN
        raise ConfigError("theta", "finite and in [1e-6, 1e12]", rope.theta)
    if rope.blocks < 1 or rope.rotary_dim % (2 * rope.blocks):
        raise ConfigError("blocks", f"a divisor of {rope.rotary_dim // 2} pairs", rope.blocks)
    check_in_range("frequency_dim", rope.frequency_dim, 1, MAX_HEAD_DIM)
    if rope.learned is not None:
        check_choice("learned", rope.learned, get_args(Learned))
    for name, choices in _CHOICES.items():
        check_choice(name, getattr(rope, name), get_args(choices))
    if rope.rope_type == "inv_freq" and rope.theta != DEFAULT_THETA:
        raise ConfigError("theta", "absent, because inv_freq has the frequencies", rope.theta)
    if rope.axes is not None:
        check_choice("axes", rope.axes, tuple(SCHEMES))


def _check_frequencies(rope: RopeConfig) -> None:
    inv_freq = rope.frequency_table.inv_freq
    angles = rope.rotary_dim if rope.axes == "xdrope" else rope.half
    if len(inv_freq) != angles or len(inv_freq) % rope.blocks:
        raise ConfigError("rotary_dim", f"twice the {len(inv_freq)} angles", rope.rotary_dim)
    if not bool((inv_freq.abs() <= MAX_INV_FREQ).all()):  # true for NaN
        expected = f"such that no scaled frequency is above {MAX_INV_FREQ:g}"
        if rope.rope_type in LISTS:
            raise ConfigError(rope.rope_type, expected, "smaller divisors")
        raise ConfigError("theta", expected, rope.theta)
    low, high = MIN_ATTENTION_SCALING, 1 / MIN_ATTENTION_SCALING
    if rope.attention_scaling and not low <= abs(rope.attention_scaling) <= high:
        expected = f"0, or such that the attention scaling is in [{low:g}, {high:g}]"
        raise ConfigError("attention_factor", expected, rope.attention_scaling)
    if rope.rope_type == "xpos" and (rope.num_axes > 1 or not rope.is_rotation):
        raise ConfigError(
            "rope_type", "other than xpos: xPos needs one axis, and one angle for each pair", "xpos"
        )


@lru_cache(maxsize=256)
def _with_length(rope: RopeConfig, length: int) -> RopeConfig:
    return replace(rope, parameters=(*rope.parameters, ("length", length)))


@lru_cache(maxsize=256)
def _frequencies(rope: RopeConfig) -> tuple[FrequencyTable, float]:
    """Return the table in the dtype of the config's arithmetic, and the attention scaling."""
    variant, parameters = VARIANTS[rope.rope_type].function, dict(rope.parameters)
    dtype = torch.float32 if rope.arithmetic == "hf" else torch.float64
    dim = rope.frequency_dim or rope.rotary_dim
    scalings: list[float] = []

    def inv_freq_for(theta: float, width: int) -> Tensor:
        inv_freq: Tensor
        inv_freq, scaling = variant(theta, width, dtype, **parameters)
        scalings.append(scaling)
        return inv_freq

    if rope.axes is None:
        return FrequencyTable(inv_freq_for(rope.theta, dim)), scalings[0]
    scheme = SCHEMES[rope.axes].function
    frequencies = AxisFrequencies(rope.theta, dtype, inv_freq_for)
    table: FrequencyTable = scheme(frequencies, dim, **dict(rope.axes_parameters))
    if not scalings and rope.rope_type != "default":
        expected = f'"default" with {rope.axes}, whose frequencies are its own'
        raise ConfigError("rope_type", expected, repr(rope.rope_type))
    return table, scalings[-1] if scalings else 1.0


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
    """Later keys that a window shows (ModernBERT). Needs a window and `causal=False`."""

    chunk: int | None = None
    """Key j is visible to query i only in its own chunk: i // chunk == j // chunk, both counted
    from the first key (Llama 4)."""

    softcap: float | None = None
    """Scaled scores become softcap * tanh(score / softcap) before the mask (Gemma 2)."""

    scale: float | None = None
    """Multiplier of the scores; head_dim ** -0.5 where None."""

    def __post_init__(self) -> None:
        check_in_range("window", self.window, 1, MAX_DISTANCE)
        check_in_range("window_ahead", self.window_ahead, 0, MAX_DISTANCE)
        if self.window_ahead and (self.causal or self.window is None):
            expected = "0 unless there is a window and causal is false"
            raise ConfigError("window_ahead", expected, self.window_ahead)
        check_in_range("chunk", self.chunk, 1, MAX_DISTANCE)
        # scores are float32: these bounds leave room on both sides
        check_in_range("softcap", self.softcap, 1e-30, 1e30)
        check_in_range("scale", self.scale, -1e30, 1e30)

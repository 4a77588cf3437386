"""How to rotate and how to attend: frozen values, valid once they exist."""

from dataclasses import dataclass
from typing import Literal, get_args

from rope_core.errors import ConfigError

Layout = Literal["half", "interleaved"]

MAX_HEAD_DIM = 8_192
"""Widest head accepted, in elements; wider ones are a client's mistake, not a model."""


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
    """Leading elements of a head that are rotated; the rest pass through. Even."""

    theta: float = 10_000.0
    """Base of the geometric progression of wavelengths (RoFormer, 2021, section 3.2.2)."""

    layout: Layout = "half"
    """Which elements form a pair: (i, i + rotary_dim/2) as in GPT-NeoX and Hugging Face's Llama,
    or (2i, 2i + 1) as in GPT-J and Meta's Llama."""

    @classmethod
    def of(
        cls,
        head_dim: int,
        *,
        rotary_dim: int | None = None,
        theta: float = 10_000.0,
        layout: Layout = "half",
    ) -> "RopeConfig":
        """Build a config the short way: `RopeConfig.of(128, theta=5e5)` rotates whole heads."""
        width = head_dim if rotary_dim is None else rotary_dim
        return cls(head_dim=head_dim, rotary_dim=width, theta=theta, layout=layout)

    def __post_init__(self) -> None:
        if not 0 < self.head_dim <= MAX_HEAD_DIM:
            raise ConfigError("head_dim", f"in [1, {MAX_HEAD_DIM}]", self.head_dim)
        if self.rotary_dim % 2 or not 0 < self.rotary_dim <= self.head_dim:
            expected = f"even and in [2, head_dim = {self.head_dim}]"
            raise ConfigError("rotary_dim", expected, self.rotary_dim)
        if not 1e-6 <= self.theta <= 1e12:  # false for NaN
            raise ConfigError("theta", "finite and in [1e-6, 1e12]", self.theta)
        if self.layout not in get_args(Layout):
            raise ConfigError("layout", '"half" or "interleaved"', repr(self.layout))

    @property
    def half(self) -> int:
        """Number of rotated pairs."""
        return self.rotary_dim // 2


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionConfig:
    """How queries attend to keys.

    Raises:
        ConfigError: a field is out of its range.
    """

    causal: bool = True
    """Hide later keys. Aligned bottom-right: the last query sees the last key."""

    window: int | None = None
    """Key j is visible to query i when 0 <= i - j < window, both counted from the last token."""

    softcap: float | None = None
    """Scaled scores become softcap * tanh(score / softcap) before the mask (Gemma 2)."""

    scale: float | None = None
    """Multiplier of the scores; head_dim ** -0.5 where None."""

    def __post_init__(self) -> None:
        if self.window is not None and not 0 < self.window < 2**31:
            raise ConfigError("window", "in [1, 2**31 - 1]", self.window)
        # bounds that leave float32, in which scores are, room on both sides
        if self.softcap is not None and not 1e-30 <= self.softcap <= 1e30:
            raise ConfigError("softcap", "in [1e-30, 1e30]", self.softcap)
        if self.scale is not None and not abs(self.scale) <= 1e30:
            raise ConfigError("scale", "in [-1e30, 1e30]", self.scale)

"""The variants of RoPE: one function each, from parameters to frequencies.

A variant takes the base `theta`, the width `dim` of its exponents, the dtype to compute in, and its
own parameters by keyword. float64 is exact; float32 repeats the operations of Hugging Face's models
in their order. It returns inv_freq `[ceil(dim / 2)]`, the angular
frequency of each pair in radians per position, and the attention scaling, a factor of cosine and
sine. `VARIANTS` has all variants by name.
"""

import math

import torch
from torch import Tensor

from rope_core.checks import check_at_least, check_in_range
from rope_core.errors import ConfigError
from rope_core.ntk_variants import dynamic_alpha, ntk_mixed
from rope_core.own_frequencies import freq_factors, inv_freq
from rope_core.progression import exponents, geometric, ntk_power, ntk_scale, power_of
from rope_core.registry import register

Frequencies = tuple[Tensor, float]


def default(theta: float, dim: int, dtype: torch.dtype) -> Frequencies:
    """Plain frequencies: theta ** (-2i / dim).

    Source: RoFormer, Su et al., 2021, section 3.2.2.
    Models: Llama 1-3, Mistral, Mixtral, Qwen2, Qwen3, Gemma, OLMo, Falcon, Phi-2, GPT-NeoX, GPT-J.
    """
    return geometric(theta, dim, dtype), 1.0


def linear(theta: float, dim: int, dtype: torch.dtype, *, factor: float) -> Frequencies:
    """Position interpolation: plain frequencies divided by `factor`.

    Source: Chen et al., 2023, "Extending context window ... via positional interpolation".
    Models: Vicuna-16k, LongChat, Gemma 3 (global layers).
    """
    check_at_least("factor", factor, 1e-6)
    return geometric(theta, dim, dtype) / factor, 1.0


def ntk(theta: float, dim: int, dtype: torch.dtype, *, factor: float) -> Frequencies:
    """NTK-aware scaling, static: base theta * factor ** (dim / (dim - 2)).

    Source: bloc97, 2023, "NTK-aware scaled RoPE".
    Models: rotary-embedding-torch (`theta_rescale_factor`), Cosmos (for each axis).
    """
    return geometric(theta * ntk_scale("factor", factor, dim), dim, dtype), 1.0


def ntk_alpha(theta: float, dim: int, dtype: torch.dtype, *, alpha: float) -> Frequencies:
    """HunYuan's NTK-aware scaling: base theta * alpha ** (dim / (dim - 2)) at every length.

    Source: HunYuan's files say rope_type "dynamic" and have `alpha`.
    Models: HunYuan dense and MoE, HunyuanVL.
    """
    return geometric(theta * ntk_scale("alpha", alpha, dim), dim, dtype), 1.0


def dynamic(
    theta: float,
    dim: int,
    dtype: torch.dtype,
    *,
    factor: float,
    max_position_embeddings: int,
    alpha: float | None = None,
    length: int = 0,
) -> Frequencies:
    """Dynamic NTK: the base grows if the call is longer than `max_position_embeddings`.

    The base is theta * (factor * L / max - (factor - 1)) ** (dim / (dim - 2)), where L is the
    length of the call, or max if that is larger.
    Up to max, `alpha` has the effect that it has in ntk_alpha (HunYuan in transformers 4.57).

    Source: emozilla, 2023; transformers keeps the largest length seen (`rope_core.DynamicLength`).
    Models: InternLM-2, and Llama with `"rope_type": "dynamic"`.
    """
    check_at_least("factor", factor, 1.0)
    check_at_least("max_position_embeddings", max_position_embeddings, 1)
    check_at_least("length", length, 0)
    power = ntk_power("dynamic", dim)
    if alpha is not None and length <= max_position_embeddings:
        return ntk_alpha(theta, dim, dtype, alpha=alpha)
    longest = max(length, max_position_embeddings)
    if dtype == torch.float32 and length > max_position_embeddings:
        # transformers has this length in a tensor, so the base becomes float32
        growth = factor * torch.tensor(longest) / max_position_embeddings - (factor - 1)
        return geometric(theta * growth**power, dim, dtype), 1.0
    grown = factor * longest / max_position_embeddings - (factor - 1)
    return geometric(theta * power_of("factor", grown, power), dim, dtype), 1.0


def yarn(
    theta: float,
    dim: int,
    dtype: torch.dtype,
    *,
    factor: float | None = None,
    original_max_position_embeddings: int,
    max_position_embeddings: int | None = None,
    beta_fast: float | None = None,
    beta_slow: float | None = None,
    truncate: bool = True,
    attention_factor: float | None = None,
    mscale: float | None = None,
    mscale_all_dim: float | None = None,
) -> Frequencies:
    """YaRN: fast pairs keep their frequency, slow ones are divided by `factor`, others are blended.

    Blended pairs rotate between `beta_fast` (32) and `beta_slow` (1) times over the trained length;
    these bounds are rounded outwards unless `truncate` is false. The scaling is
    `attention_factor`; otherwise M(factor, mscale) / M(factor, mscale_all_dim) if both are set and
    not 0; otherwise M(factor, 1), with M(s, m) = 0.1 m ln(s) + 1. A missing `factor` is max /
    original length.

    Source: Peng et al., 2023, "YaRN", sections 3.2-3.4; the mscale pair is DeepSeek's.
    Models: Qwen2.5 and Qwen3 (long), gpt-oss, OLMo-3, Ministral-3, Kimi-K2, DeepSeek V2 and V3.
    """
    original = original_max_position_embeddings
    check_at_least("original_max_position_embeddings", original, 1)
    if factor is None:
        if max_position_embeddings is None:
            raise ConfigError("factor", "given, or max_position_embeddings", "neither")
        factor = max_position_embeddings / original
    check_at_least("factor", factor, 1.0)
    scaling = attention_factor
    if scaling is None and mscale and mscale_all_dim:
        divisor = _magnitude(factor, mscale_all_dim)
        if not divisor:
            raise ConfigError(
                "mscale_all_dim", "such that the attention scaling is finite", mscale_all_dim
            )
        scaling = _magnitude(factor, mscale) / divisor
    elif scaling is None:
        scaling = _magnitude(factor, 1.0)
    if theta == 1.0:
        raise ConfigError("theta", "other than 1 for yarn", theta)

    for name, beta in (("beta_fast", beta_fast), ("beta_slow", beta_slow)):
        check_at_least(name, beta or 1, 1e-6)

    powers = theta ** exponents(dim, dtype)
    low, high = (
        dim * math.log(original / (beta * 2 * math.pi)) / (2 * math.log(theta))
        for beta in (beta_fast or 32, beta_slow or 1)
    )
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    high += 0.001 if low == high else 0
    ramp = ((torch.arange(len(powers), dtype=dtype) - low) / (high - low)).clamp(0, 1)
    extrapolated = 1 - ramp
    inv_freq = 1.0 / (factor * powers) * (1 - extrapolated) + 1.0 / powers * extrapolated
    return inv_freq, float(scaling)


def longrope(
    theta: float,
    dim: int,
    dtype: torch.dtype,
    *,
    short_factor: tuple[float, ...],
    long_factor: tuple[float, ...],
    original_max_position_embeddings: int,
    max_position_embeddings: int | None = None,
    factor: float | None = None,
    attention_factor: float | None = None,
    short_mscale: float | None = None,
    long_mscale: float | None = None,
    length: int = 0,
) -> Frequencies:
    """LongRoPE: each pair is divided by a factor of its own; long calls have other factors.

    A call that is longer than the trained length uses `long_factor` for all positions. The scaling
    is `attention_factor`, otherwise sqrt(1 + ln(factor) / ln(original)) for both lists. A missing
    `factor` is max / original length. PhiMoE has `short_mscale` and `long_mscale` instead.

    Source: Ding et al., 2024, "LongRoPE"; Phi-3 technical report.
    Models: Phi-3, Phi-3.5, Phi-4-mini, Phi-4-multimodal, PhiMoE, MiniCPM-3.
    """
    original = original_max_position_embeddings
    check_at_least("original_max_position_embeddings", original, 1)
    check_at_least("length", length, 0)
    pairs = (dim + 1) // 2
    for name, factors in (("short_factor", short_factor), ("long_factor", long_factor)):
        if len(factors) != pairs:
            raise ConfigError(name, f"a list of {pairs} numbers, one for each pair", len(factors))
        if not all(0 < value < math.inf for value in factors):
            raise ConfigError(name, "of positive numbers", "others")
    if factor is not None:
        check_at_least("factor", factor, 1.0)
    elif max_position_embeddings is not None:
        factor = max_position_embeddings / original
    is_long = length > original
    scaling = long_mscale if is_long else short_mscale
    scaling = attention_factor if scaling is None else scaling
    if scaling is None:
        if factor is None:
            raise ConfigError("factor", "given, or max_position_embeddings", "neither")
        if factor > 1 and original == 1:
            raise ConfigError("original_max_position_embeddings", "above 1", original)
        scaling = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
    divisors = torch.tensor(long_factor if is_long else short_factor, dtype=dtype)
    return 1.0 / (divisors * theta ** exponents(dim, dtype)), float(scaling)


def llama3(
    theta: float,
    dim: int,
    dtype: torch.dtype,
    *,
    factor: float,
    low_freq_factor: float,
    high_freq_factor: float,
    original_max_position_embeddings: int,
) -> Frequencies:
    """Llama 3.1: slow pairs are divided by `factor`, fast pairs are kept, others are blended.

    Fast pairs have wavelengths below original / high_freq_factor, slow pairs above
    original / low_freq_factor.

    Source: Llama 3.1 model card and reference code, Meta, 2024.
    Models: Llama 3.1, 3.2, 3.3, Llama-4-Scout.
    """
    original = original_max_position_embeddings
    check_at_least("original_max_position_embeddings", original, 1)
    check_at_least("factor", factor, 1.0)
    check_at_least("low_freq_factor", low_freq_factor, 1e-6)
    check_at_least("high_freq_factor", high_freq_factor, 1e-6)
    plain = geometric(theta, dim, dtype)
    wavelength = 2 * math.pi / plain
    longest, shortest = original / low_freq_factor, original / high_freq_factor
    scaled = torch.where(wavelength > longest, plain / factor, plain)
    if low_freq_factor == high_freq_factor:  # no frequency is blended
        return scaled, 1.0
    smooth = (original / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor)
    blend = (1 - smooth) * scaled / factor + smooth * scaled
    is_medium = (wavelength >= shortest) & (wavelength <= longest)
    return torch.where(is_medium, blend, scaled), 1.0


def proportional(
    theta: float,
    dim: int,
    dtype: torch.dtype,
    *,
    partial_rotary_factor: float = 1.0,
    factor: float = 1.0,
) -> Frequencies:
    """p-RoPE: only the first pairs rotate; exponents are those of the whole head.

    The other pairs have frequency 0. All frequencies are divided by `factor`.

    Source: Barbero et al., 2024, "Round and round we go"; Gemma 4.
    Models: Gemma 4, Diffusion-Gemma (full-attention layers).
    """
    check_in_range("partial_rotary_factor", partial_rotary_factor, 0, 1)
    check_at_least("factor", factor, 1e-6)
    rotated = int(partial_rotary_factor * dim // 2)
    fast = 1.0 / theta ** (torch.arange(0, 2 * rotated, 2, dtype=dtype) / dim)
    return torch.cat((fast, fast.new_zeros(dim // 2 - rotated))) / factor, 1.0


def xpos(
    theta: float, dim: int, dtype: torch.dtype, *, scale_base: float = 512.0, length: int = 0
) -> Frequencies:
    """xPos: plain frequencies, and factors of q and k that make scores decay with the distance.

    q is scaled by zeta_i ** ((t - length // 2) / scale_base), k by its inverse, with
    zeta_i = (2i + 0.4 dim) / (1.4 dim). Cached keys and new queries need the same `length`.

    Source: Sun et al., 2022, "A length-extrapolatable transformer", section 3.
    Models: none in transformers; rotary-embedding-torch (`use_xpos`).
    """
    check_at_least("scale_base", scale_base, 1.0)
    check_at_least("length", length, 0)
    return geometric(theta, dim, dtype), 1.0


def xpos_zeta(dim: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the base of each pair's scale in xPos, `[dim / 2]`."""
    return (torch.arange(0, dim, 2, dtype=dtype, device=device) + 0.4 * dim) / (1.4 * dim)


def _magnitude(factor: float, mscale: float) -> float:
    """YaRN's M, the growth of attention's temperature with the length (section 3.4)."""
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


VARIANTS = register(
    (
        *(default, linear, ntk, ntk_alpha, ntk_mixed, dynamic, dynamic_alpha),
        *(yarn, longrope, llama3, proportional, xpos, inv_freq, freq_factors),
    )
)
"""Every variant by name."""

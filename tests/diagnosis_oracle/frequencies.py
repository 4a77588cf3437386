"""Frequencies of each variant, and the gain of cosine and sine, in float64."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

Row = np.ndarray[Any, np.dtype[np.float64]]


def geometric(theta: float, width: int, count: int) -> Row:
    """Return theta ** (-2i / width) of i < count."""
    return np.asarray(float(theta) ** -(np.arange(0, 2 * count, 2, dtype=np.float64) / width))


def frequencies(
    kind: str, theta: float, width: int, count: int, numbers: Mapping[str, Any], length: int
) -> tuple[Row, float]:
    """Return `count` frequencies of a variant, and its gain."""
    plain = geometric(theta, width, count)
    factor: Any = numbers.get("factor")
    match kind:
        case "default":
            return plain, 1.0
        case "linear":
            return plain / factor, 1.0
        case "ntk" | "ntk_alpha":
            stretch = float(numbers["alpha"] if kind == "ntk_alpha" else factor)
            return geometric(theta * stretch ** (width / (width - 2)), width, count), 1.0
        case "dynamic":
            trained = numbers["max_position_embeddings"]
            ratio = float(factor) * max(length, trained) / trained - (float(factor) - 1)
            return geometric(theta * ratio ** (width / (width - 2)), width, count), 1.0
        case "yarn":
            return _yarn(theta, width, plain, numbers)
        case "llama3":
            return _llama3(plain, numbers), 1.0
        case "longrope":
            return _longrope(plain, numbers, length)
        case "proportional":
            turning = int(numbers["partial_rotary_factor"] * count)
            row = np.where(np.arange(count) < turning, plain, 0.0)
            return row / (factor or 1.0), 1.0
    raise ValueError(kind)


def yarn_bounds(theta: float, width: int, numbers: Mapping[str, Any]) -> tuple[float, float]:
    """Return the pairs where YaRN's ramp begins and ends."""
    trained = numbers["original_max_position_embeddings"]

    def pair_of(turns: float) -> float:
        return width * math.log(trained / (2 * math.pi * turns)) / (2 * math.log(theta))

    low, high = pair_of(numbers.get("beta_fast") or 32), pair_of(numbers.get("beta_slow") or 1)
    if numbers.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, width - 1)
    return low, high + 0.001 if low == high else high


def _yarn(theta: float, width: int, plain: Row, numbers: Mapping[str, Any]) -> tuple[Row, float]:
    factor = numbers.get("factor")
    if factor is None:
        most = numbers["max_position_embeddings"]
        factor = most / numbers["original_max_position_embeddings"]
    low, high = yarn_bounds(theta, width, numbers)
    divided = np.clip((np.arange(len(plain)) - low) / (high - low), 0.0, 1.0)
    return plain / factor * divided + plain * (1 - divided), _yarn_gain(factor, numbers)


def yarn_magnitude(factor: float, mscale: float) -> float:
    """Return 0.1 mscale ln(factor) + 1."""
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def _yarn_gain(factor: float, numbers: Mapping[str, Any]) -> float:
    if numbers.get("attention_factor") is not None:
        return float(numbers["attention_factor"])
    one, every = numbers.get("mscale"), numbers.get("mscale_all_dim")
    if one and every:
        return yarn_magnitude(factor, one) / yarn_magnitude(factor, every)
    return yarn_magnitude(factor, 1.0)


def _llama3(plain: Row, numbers: Mapping[str, Any]) -> Row:
    trained, factor = numbers["original_max_position_embeddings"], numbers["factor"]
    low, high = numbers["low_freq_factor"], numbers["high_freq_factor"]
    turns = trained * plain / (2 * math.pi)
    if low == high:
        return np.asarray(np.where(turns < low, plain / factor, plain))
    kept = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return np.asarray((1 - kept) * plain / factor + kept * plain)


def _longrope(plain: Row, numbers: Mapping[str, Any], length: int) -> tuple[Row, float]:
    trained = numbers["original_max_position_embeddings"]
    is_long = length > trained
    divisors = numbers["long_factor" if is_long else "short_factor"]
    return plain / np.asarray(divisors, np.float64), longrope_gain(numbers, is_long)


def longrope_gain(numbers: Mapping[str, Any], is_long: bool) -> float:
    """Return the gain of LongRoPE."""
    named = numbers.get("long_mscale" if is_long else "short_mscale")
    if named is not None:
        return float(named)
    if numbers.get("attention_factor") is not None:
        return float(numbers["attention_factor"])
    trained = numbers["original_max_position_embeddings"]
    factor = numbers.get("factor") or numbers["max_position_embeddings"] / trained
    return 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(trained))

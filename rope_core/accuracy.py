"""The error of the arithmetic of transformers, measured."""

from dataclasses import replace

import torch

from rope_core.calls import CosSin
from rope_core.config import RopeConfig
from rope_core.rotary import cos_sin

POSITIONS = (1_000, 4_095, 32_767, 131_071, 1_048_575, 10_485_759)


def angle_errors(rope: RopeConfig | None = None) -> dict[str, dict[int, float]]:
    """Return the largest error of the cosines at each of `POSITIONS`, for each arithmetic.

    The reference is float64 throughout. Without a rope the frequencies are those of Llama 3.
    """
    rope = rope or RopeConfig.of(128, theta=500_000.0)
    positions = torch.tensor(POSITIONS)
    inv_freq = replace(rope, arithmetic="float64").frequency_table.inv_freq
    expected = (positions.double()[:, None] * inv_freq).cos()
    errors = {}
    for arithmetic in ("hf", "float64"):
        table = cos_sin(CosSin(positions, replace(rope, arithmetic=arithmetic)))
        largest = (table.cos.double() - expected).abs().amax(-1).tolist()
        errors[arithmetic] = dict(zip(POSITIONS, largest, strict=True))
    return errors

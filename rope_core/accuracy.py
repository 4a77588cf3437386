"""How far the arithmetic of transformers is from the truth, measured."""

from dataclasses import replace

import torch

from rope_core.calls import CosSin
from rope_core.config import RopeConfig
from rope_core.rotary import cos_sin

POSITIONS = (1_000, 4_095, 32_767, 131_071, 1_048_575, 10_485_759)


def angle_errors(rope: RopeConfig | None = None) -> dict[str, dict[int, float]]:
    """Return the largest error of cosines at some positions, for each arithmetic.

    Against float64 throughout; Llama 3's frequencies where no rope is given.
    """
    rope = rope or RopeConfig.of(128, theta=500_000.0)
    truth_w = replace(rope, arithmetic="float64").columns.inv_freq
    at = torch.tensor(POSITIONS)
    truth = (at.double()[:, None] * truth_w).cos()
    errors = {}
    for arithmetic in ("hf", "float64"):
        found = cos_sin(CosSin(at, replace(rope, arithmetic=arithmetic))).cos.double()
        worst = (found - truth).abs().amax(-1).tolist()
        errors[arithmetic] = dict(zip(POSITIONS, worst, strict=True))
    return errors

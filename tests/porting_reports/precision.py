"""Section E: precision and state."""

import torch

from tests.porting_reports import ported as port
from tests.porting_reports.report import Report, report

POSITIONS = torch.arange(3000, 3128)


@report(35, "arange in bfloat16", "transformers #28685", positions_rounded="bfloat16")
def half_positions() -> Report:
    q = port.heads(1, 128, 2, 128)
    turn = port.angles(POSITIONS.bfloat16(), port.inv_freq(10_000.0, 128))
    return Report("llama-2-7b", port.rotation(q, port.half(q, turn), POSITIONS))


@report(35, "inv_freq in bfloat16", "gpt-neox #1003", angles_rounded="bfloat16")
def half_frequencies() -> Report:
    q = port.heads(1, 128, 2, 128)
    turn = port.angles(POSITIONS, port.inv_freq(10_000.0, 128).bfloat16().double())
    return Report("llama-2-7b", port.rotation(q, port.half(q, turn), POSITIONS))


@report(36, "cosine and sine in the dtype of the activations", "flash-attention #823")
def half_tables() -> Report:
    """Costs 2e-3 a value, which bfloat16 does not distinguish from its own rounding."""
    q = port.heads(1, 128, 2, 128).bfloat16()
    turn = port.angles(POSITIONS, port.inv_freq(10_000.0, 128))
    turn = torch.cat((turn, turn), -1)[..., None, :]
    after = q * turn.cos().bfloat16() + port.rotate_half(q) * turn.sin().bfloat16()
    return Report("llama-2-7b", port.rotation(q, after, POSITIONS), "agrees")


@report(37, "float32 far from 0", "transformers #28685")
def far_positions() -> Report:
    """Neither side is wrong: the tolerance grows with the angles."""
    q, at = port.heads(1, 128, 2, 128), POSITIONS + 128_000
    turn = at.float()[:, None] * port.inv_freq(500_000.0, 128).float()
    return Report("llama-3-8b", port.rotation(q, port.half(q, turn), at), "agrees")


@report(38, "inv_freq never initialised", "transformers #34234")
def uninitialised() -> Report:
    """Garbage is reproduced by no mistake; `measured` shows that w_0 is not 1."""
    generator = torch.Generator().manual_seed(0)
    garbage = torch.rand(64, generator=generator) * 3e-2
    return Report("llama-2-7b", {"inv_freq": garbage}, "unexplained")


@report(39, "rotated twice", "TensorRT-LLM #16378", rotated_twice=None)
def twice() -> Report:
    q = port.heads(1, 128, 2, 128)
    turn = port.angles(POSITIONS, port.inv_freq(10_000.0, 128))
    return Report("llama-2-7b", port.rotation(q, port.half(port.half(q, turn), turn), POSITIONS))


@report(39, "the value rotated", "labmlai #251", v_rotated=None)
def rotated_value() -> Report:
    q, k, v = (port.heads(1, 64, 2, 128, seed=seed) for seed in range(3))
    turn = port.angles(torch.arange(64), port.inv_freq(10_000.0, 128))
    q_turned, k_turned, v_turned = (port.half(x, turn) for x in (q, k, v))
    out = port.attention(q_turned, k_turned, v_turned, 128**-0.5)
    return Report("llama-2-7b", {"q": q, "k": k, "v": v, "out": out})

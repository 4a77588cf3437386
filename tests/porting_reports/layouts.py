"""Section A: layout and pairing."""

import torch

from tests.porting_reports import ported as port
from tests.porting_reports.report import Report, report

POSITIONS = torch.arange(64)


@report(1, "half-split against interleaved", "transformers #25199", layout_swapped="interleaved")
def half_and_interleaved() -> Report:
    q = port.heads(1, 64, 2, 128)
    turn = port.angles(POSITIONS, port.inv_freq(500_000.0, 128))
    return Report("llama-3-8b", port.rotation(q, port.interleaved(q, turn), POSITIONS))


@report(2, "tables in one layout, partner in the other", "vjepa2 PR 15", layout_mixed=None)
def mixed_tables() -> Report:
    q = port.heads(1, 64, 2, 128)
    turn = port.angles(POSITIONS, port.inv_freq(10_000.0, 128)).repeat_interleave(2, -1)
    turn = turn[..., None, :]
    after = (q * turn.cos() + port.rotate_half(q.double()) * turn.sin()).float()
    return Report("llama-2-7b", port.rotation(q, after, POSITIONS))


@report(3, "k's weights permuted with the number of query heads", "llama.cpp #3364")
def permuted_weights() -> Report:
    """The weights are wrong, so k is wrong before its rotation, and the rotation is right."""
    k = port.heads(1, 64, 8, 128)
    k = k.reshape(1, 64, 32, 16, 2).transpose(-1, -2).reshape(k.shape)
    turn = port.angles(POSITIONS, port.inv_freq(1_000_000.0, 128))
    return Report("mixtral-8x7b-v0.1", port.rotation(k, port.half(k, turn), POSITIONS), "agrees")


@report(
    4,
    "mrope_interleaved read as interleaved pairs",
    "lattice #96",
    layout_swapped="interleaved",
    sections_wrong=[24, 20, 20],
)
def axes_read_as_pairs() -> Report:
    q = port.heads(1, 64, 2, 128)
    at = torch.stack((POSITIONS // 8, POSITIONS // 4 % 8, POSITIONS % 4)).unsqueeze(1) + 5
    axis = torch.tensor([0, 1, 2]).repeat_interleave(torch.tensor([24, 20, 20]))
    turn = at[axis].movedim(0, -1).double() * port.inv_freq(5_000_000.0, 128)
    return Report("qwen3-vl-8b-instruct", port.rotation(q, port.interleaved(q, turn), at))


@report(5, "MLA written interleaved", "vllm #26995", layout_swapped="interleaved")
def latent_attention() -> Report:
    q = port.heads(1, 64, 2, 64)
    turn = port.angles(POSITIONS, port.yarn(10_000.0, 64, 40.0, 4096))
    return Report("deepseek-v3", port.rotation(q, port.interleaved(q, turn), POSITIONS))


@report(6, "left de-interleaved", "vllm-metal #44", layout_swapped="interleaved_to_half")
def left_split() -> Report:
    q = port.heads(1, 64, 2, 128)
    turned = port.interleaved(q, port.angles(POSITIONS, port.inv_freq(8_000_000.0, 128)))
    after = torch.cat((turned[..., ::2], turned[..., 1::2]), -1)
    return Report("command-r-v01", port.rotation(q, after, POSITIONS))


@report(7, "denominator 128, not 512", "Megatron-Bridge #4195", exponent_width_wrong=128)
def proportional() -> Report:
    q = port.heads(1, 64, 2, 512)
    frequencies = torch.zeros(256, dtype=torch.float64)
    frequencies[:64] = 1e6 ** -(torch.arange(0, 128, 2).double() / 128)
    rope = {"head_dim": 512, "theta": 1e6, "rope_type": "proportional"}
    after = port.half(q, port.angles(POSITIONS, frequencies))
    return Report({**rope, "partial_rotary_factor": 0.25}, port.rotation(q, after, POSITIONS))


@report(7, "denominator of the head, where it is partial", "pie #602", exponent_width_wrong=128)
def head_width_of_partial() -> Report:
    q = port.heads(1, 64, 2, 128)
    turn = port.angles(POSITIONS, port.inv_freq(10_000.0, 128)[:16])
    return Report("pythia-1.4b", port.rotation(q, port.partial(q, turn), POSITIONS))


@report(8, "trailing slice taken as leading", "DeepSeek V4", slice_at_other_end=None)
def leading_slice() -> Report:
    q = port.heads(1, 64, 2, 192)
    turn = port.angles(POSITIONS, port.inv_freq(10_000.0, 64))
    after = torch.cat((port.interleaved(q[..., :64], turn), q[..., 64:]), -1)
    rope = {"head_dim": 192, "rotary_dim": 64, "layout": "interleaved", "trailing": True}
    return Report(rope, port.rotation(q, after, POSITIONS))

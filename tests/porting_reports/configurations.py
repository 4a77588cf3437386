"""Section B: configuration."""

import torch

from tests.porting_reports import ported as port
from tests.porting_reports.report import Report, report

POSITIONS = torch.arange(1024, 1104)


def turned(rope: object, frequencies: torch.Tensor, head_dim: int, rotary: int = 0) -> Report:
    """Return the report of a half-split rotation by these frequencies."""
    q = port.heads(1, len(POSITIONS), 2, head_dim)
    turn = port.angles(POSITIONS, frequencies)
    after = port.partial(q, turn) if rotary else port.half(q, turn)
    return Report(rope, port.rotation(q, after, POSITIONS))


@report(9, "rope_theta not found at the top level", "vllm #28542", wrong_base=10_000.0)
def moved_base() -> Report:
    return turned("qwen3-8b", port.inv_freq(10_000.0, 128), 128)


@report(10, "llama3 block ignored", "ANEForge #58", scaling_ignored="llama3")
def ignored_block() -> Report:
    return turned("llama-3.1-8b", port.inv_freq(500_000.0, 128), 128)


@report(10, "factor 8 for factor 32", "unsloth #6925", factor_wrong=8.0)
def other_factor() -> Report:
    return turned("llama-3.2-1b", port.llama3(port.inv_freq(500_000.0, 64), 8.0, 8192), 64)


@report(11, "type su unknown, so default", "vllm #10293", scaling_ignored="longrope")
def unknown_type() -> Report:
    return turned("phi-3-mini-128k-instruct", port.inv_freq(10_000.0, 96), 96)


@report(12, "an override of None wipes the block", "axolotl #383", scaling_ignored="linear")
def wiped_block() -> Report:
    return turned("llama-2-7b-32k", port.inv_freq(10_000.0, 128), 128)


@report(13, "partial_rotary_factor lost", "mlx-lm #1698", partial_ignored=80)
def lost_share() -> Report:
    return turned("phi-2", port.inv_freq(10_000.0, 80), 80)


@report(13, "partial_rotary_factor applied twice", "vllm #30384", rotary_dim_wrong=32)
def share_applied_twice() -> Report:
    return turned("glm-4.5", port.inv_freq(1_000_000.0, 32), 128, rotary=32)


@report(14, "head_dim = hidden / heads", "candle #2358", rotary_dim_wrong=160)
def derived_head_dim() -> Report:
    turn = port.angles(POSITIONS, port.inv_freq(1_000_000.0, 160))
    table = {"cos": turn.cos().float(), "sin": turn.sin().float(), "positions": POSITIONS}
    return Report("mistral-nemo-instruct-2407", table)


@report(16, "scaling of global layers on local ones", "llama.cpp #14367", position_scaled=0.125)
def scaled_local_layer() -> Report:
    rope = {"preset": "gemma-3-27b-it", "layer_type": "sliding_attention"}
    return turned(rope, port.inv_freq(10_000.0, 128) / 8, 128)


@report(
    16, "local layers with the global base", "tt-metal #22809", layer_type_wrong="full_attention"
)
def global_base() -> Report:
    rope = {"preset": "gemma-3-1b-it", "layer_type": "sliding_attention"}
    return turned(rope, port.inv_freq(1_000_000.0, 256), 256)


@report(17, "no_rope_layers inverted: rotates", "SmolLM3", nope_layer_rotated=None)
def inverted_flag() -> Report:
    return turned({"preset": "smollm3-3b", "layer": 3}, port.inv_freq(5_000_000.0, 128), 128)


@report(17, "no_rope_layers inverted: does not rotate", "SmolLM3", not_rotated=None)
def inverted_flag_of_other_layers() -> Report:
    q = port.heads(1, len(POSITIONS), 2, 128)
    return Report({"preset": "smollm3-3b", "layer": 0}, port.rotation(q, q.clone(), POSITIONS))


@report(
    18,
    "max_position_embeddings for the trained length",
    "vllm #8793",
    original_length_wrong=131_072,
)
def allowed_length() -> Report:
    frequencies = port.llama3(port.inv_freq(500_000.0, 128), 8.0, 131_072)
    return turned("llama-3.1-8b", frequencies, 128)

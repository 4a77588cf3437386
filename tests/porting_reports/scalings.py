"""Section C: scaling formulas."""

import json
import math
from pathlib import Path

import torch

from rope_core import presets
from tests.porting_reports import ported as port
from tests.porting_reports.configurations import turned
from tests.porting_reports.report import Report, report

POSITIONS = torch.arange(1024, 1104)
MSCALE = 0.1 * math.log(40) + 1
FOLDER = Path(presets.__file__).parent


@report(19, "YaRN's bounds truncated", "vllm #27722", truncate_wrong=True)
def truncated() -> Report:
    q = port.heads(1, 80, 2, 64)
    turn = port.angles(POSITIONS, port.yarn(150_000.0, 64, 32.0, 4096))
    after = port.half(q, turn, 0.1 * math.log(32) + 1)
    return Report("gpt-oss-20b", port.rotation(q, after, POSITIONS))


@report(20, "mscale without mscale_all_dim", "imp #880", gain_wrong=1.2608)
def one_mscale() -> Report:
    q = port.heads(1, 80, 2, 64)
    turn = port.angles(POSITIONS, port.yarn(10_000.0, 64, 40.0, 4096))
    after = port.interleaved(q, turn, 0.1 * 0.707 * math.log(40) + 1)
    return Report("deepseek-v2-lite", port.rotation(q, after, POSITIONS))


@report(20, "gain applied twice", "TensorRT-LLM #16378", gain_twice=1.8133)
def gain_twice() -> Report:
    q = port.heads(1, 80, 2, 64)
    turn = port.angles(POSITIONS, port.yarn(150_000.0, 64, 32.0, 4096, truncate=False))
    after = port.half(q, turn, (0.1 * math.log(32) + 1) ** 2)
    return Report("gpt-oss-20b", port.rotation(q, after, POSITIONS))


@report(
    21,
    "softmax scale without mscale",
    "transformers #47435",
    softmax_scale_missing_mscale=192**-0.5,
)
def softmax_scale() -> Report:
    q, k, v = (port.heads(1, 48, 2, width, seed=width) for width in (192, 193, 128))
    k = k[..., :192].contiguous()
    turn = port.angles(torch.arange(48), port.yarn(10_000.0, 64, 40.0, 4096))
    turned = []
    for x in (q, k):
        part = port.interleaved(x[..., 128:], turn)
        turned.append(torch.cat((x[..., :128], part[..., ::2], part[..., 1::2]), -1))
    out = port.attention(turned[0], turned[1], v, 192**-0.5)
    return Report("deepseek-v3", {"q": q, "k": k, "v": v, "out": out})


@report(22, "LongRoPE list chosen by capacity", "llama.cpp #24823", longrope_other_list="long")
def list_by_capacity() -> Report:
    config = json.loads((FOLDER / "phi-3-mini-128k-instruct.json").read_text())["config"]
    divisors = torch.tensor(config["rope_scaling"]["long_factor"], dtype=torch.float64)
    q = port.heads(1, 80, 2, 96)
    turn = port.angles(POSITIONS, port.inv_freq(10_000.0, 96) / divisors)
    gain = math.sqrt(1 + math.log(32) / math.log(4096))
    after = port.half(q, turn, gain)
    return Report("phi-3-mini-128k-instruct", port.rotation(q, after, POSITIONS))


@report(23, "PhiMoE never long in transformers 5", "measured", config_of_other_version="4.57")
def phimoe() -> Report:
    """The numbers of 4.57, with the long factors."""
    short, long = [1.0 + 0.01 * i for i in range(32)], [1.0 + i for i in range(32)]
    block: dict[str, object] = {"type": "longrope", "short_factor": short, "long_factor": long}
    block |= {"short_mscale": 1.1, "long_mscale": 1.25, "original_max_position_embeddings": 4096}
    config: dict[str, object] = {
        "model_type": "phimoe",
        "hidden_size": 2048,
        "num_attention_heads": 32,
    }
    config |= {"head_dim": 64, "max_position_embeddings": 131_072, "rope_theta": 10_000.0}
    config |= {"rope_scaling": block, "original_max_position_embeddings": 4096}
    q, at = port.heads(1, 80, 2, 64), POSITIONS + 8000
    frequencies = port.inv_freq(10_000.0, 64) / torch.tensor(long, dtype=torch.float64)
    after = port.half(q, port.angles(at, frequencies), 1.25)
    return Report({"config": config}, port.rotation(q, after, at))


@report(24, "old keys keep the old base", "transformers #25104", scaling_ignored="dynamic")
def cached_keys() -> Report:
    """Keys of the prompt, rotated before the call grew beyond the trained length."""
    rope = {"head_dim": 128, "rope_type": "dynamic", "factor": 4.0}
    rope |= {"max_position_embeddings": 2048, "length": 8192}
    return turned(rope, port.inv_freq(10_000.0, 128), 128)


@report(25, "low_freq_factor equal to high_freq_factor: 0 / 0", "Llama 4 Scout")
def nan_frequencies() -> Report:
    """NaN is no number that a mistake reproduces: a warning tells about it."""
    frequencies = port.inv_freq(500_000.0, 128).float()
    frequencies[30:] = float("nan")
    rope = {"preset": "llama-4-scout-17b-16e-instruct", "layer": 0}
    return Report(rope, {"inv_freq": frequencies}, "unexplained")


@report(26, "NTK factor without exponent", "diffusers", wrong_base=9782.36)
def no_exponent() -> Report:
    """The base that gives theirs, 40,000, with the exponent of NTK."""
    rope = {"head_dim": 128, "rope_type": "ntk", "factor": 4.0}
    return turned(rope, port.inv_freq(40_000.0, 128), 128)


@report(27, "axes split in another way", "diffusers #12538", sections_wrong=None)
def other_split() -> Report:
    rope = {"head_dim": 64, "layout": "interleaved", "axes": "axial", "axes_dim": [24, 20, 20]}
    count = torch.arange(96)
    at = torch.stack((count // 32, count // 8 % 4, count % 8)).unsqueeze(1) + 3
    turns = [
        port.angles(x, port.inv_freq(10_000.0, d)) for x, d in zip(at, (20, 22, 22), strict=True)
    ]
    q = port.heads(1, 96, 2, 64)
    return Report(rope, port.rotation(q, port.interleaved(q, torch.cat(turns, -1)), at))

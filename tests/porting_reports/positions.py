"""Section D: positions."""

import torch

from tests.porting_reports import ported as port
from tests.porting_reports.report import Report, report

COUNT = torch.arange(64)


def turned(rope: str, theta: float, expected: torch.Tensor, theirs: torch.Tensor) -> Report:
    """Return the report of a half-split rotation of 128 channels at their positions."""
    rows = len(expected) if expected.ndim == 2 else 1
    q = port.heads(rows, expected.shape[-1], 2, 128)
    after = port.half(q, port.angles(theirs, port.inv_freq(theta, 128)))
    return Report(rope, port.rotation(q, after, expected))


@report(28, "left padding counted", "transformers #22161", padding_counted=None)
def counted_padding() -> Report:
    mask = torch.ones(2, 64, dtype=torch.long)
    mask[0, :20], mask[1, :7] = 0, 0
    right = (mask.cumsum(-1) - 1).masked_fill(mask == 0, 1)
    return turned("llama-3-8b", 500_000.0, right, COUNT.expand(2, 64))


@report(29, "retained rows for the true position", "VeloxQuant-MLX #138", position_offset=-512)
def retained_rows() -> Report:
    return turned("llama-3-8b", 500_000.0, COUNT + 2048, COUNT + 1536)


@report(30, "a new key keeps its absolute position", "transformers #33691", position_offset=3000)
def absolute_position() -> Report:
    return turned("llama-2-7b", 10_000.0, COUNT + 1020, COUNT + 4020)


@report(31, "a shift of keys over the whole head", "llama.cpp #4889", partial_ignored=80)
def whole_head_shifted() -> Report:
    """Keys that are rotated already, and shifted by -100."""
    k = port.heads(1, 64, 2, 80)
    delta = torch.full((64,), -100)
    after = port.half(k, port.angles(delta, port.inv_freq(10_000.0, 80)))
    return Report("phi-2", port.rotation(k, after, delta))


@report(32, "three axes flattened to one", "mlx-lm #1768", axes_ignored=None)
def flattened() -> Report:
    at = torch.stack((COUNT // 16, COUNT // 4 % 4, COUNT % 4)).unsqueeze(1) + 5
    q = port.heads(1, 64, 2, 128)
    after = port.half(q, port.angles(COUNT, port.inv_freq(1_000_000.0, 128)))
    return Report("qwen2-vl-7b-instruct", port.rotation(q, after, at))


@report(33, "a mask derived from gaps of positions", "transformers 5, measured")
def derived_mask() -> Report:
    """A block-diagonal mask that nobody asked for has no code: the rotation is right."""
    q, k, v = (port.heads(1, 64, 2, 128, seed=seed) for seed in range(3))
    at = torch.cat((COUNT[:32], COUNT[32:] + 10))
    turn = port.angles(at, port.inv_freq(10_000.0, 128))
    parts = [
        port.attention(
            port.half(q, turn)[:, rows], port.half(k, turn)[:, rows], v[:, rows], 128**-0.5
        )
        for rows in (slice(32), slice(32, 64))
    ]
    evidence = {"q": q, "k": k, "v": v, "out": torch.cat(parts, 1), "positions": at}
    return Report("llama-2-7b", evidence, "unexplained")


@report(34, "window arithmetic of SelfExtend", "LongLM #40")
def grouped_positions() -> Report:
    """SelfExtend is no single rotation: it rotates every key twice, for near and far queries."""
    far = COUNT.clone()
    far[20:] = far[20:] // 4 + 16
    report = turned("llama-2-7b", 10_000.0, COUNT + 100, far + 100)
    return Report(report.rope, report.evidence, "unexplained")

"""The channels of each pair, and the axis of a position that turns it."""

import torch
from torch import Tensor

from rope_core.config import RopeConfig
from rope_core.layouts import SPLIT_HALF_LAYOUTS, expand_to_channels

SEVERAL_AXES = -1
"""The axis of a pair that several axes turn."""


def channel_pairs(rope: RopeConfig) -> Tensor:
    """Return the two channels of a head that make up each pair, int64 `[P, 2]`.

    Pairs are in the order of the frequencies. `interleaved_to_half` writes them to other channels:
    those of the layout `half`.
    """
    first = rope.head_dim - rope.rotary_dim if rope.trailing else 0
    return first + _partners(rope, rope.layout == "half")


def pair_axis(rope: RopeConfig) -> Tensor:
    """Return the axis of a position that turns each pair, int64 `[P]`.

    `SEVERAL_AXES` where the angle depends on several axes, or where the two channels of a pair
    turn by different ones (XD-RoPE).
    """
    table = rope.frequency_table
    if table.coupled or rope.learned == "frequencies":
        return torch.full((rope.half,), SEVERAL_AXES)
    if table.axis is None:
        return torch.zeros(rope.half, dtype=torch.int64)
    width = rope.rotary_dim // rope.blocks
    by_channel = expand_to_channels(table.axis.view(rope.blocks, -1), rope.layout, width).flatten()
    first, second = by_channel[_partners(rope, rope.layout in SPLIT_HALF_LAYOUTS)].unbind(-1)
    return torch.where(first == second, first, SEVERAL_AXES)


def axis_names(rope: RopeConfig) -> tuple[str, ...]:
    """Return the names of the axes of a position."""
    if rope.axes is not None and rope.axes.startswith("mrope"):
        return ("time", "height", "width")
    return tuple(f"axis {axis}" for axis in range(rope.num_axes))


def _partners(rope: RopeConfig, halves: bool) -> Tensor:
    """Return the channels of each pair, counted from the first that rotates, int64 `[P, 2]`."""
    width = rope.rotary_dim // rope.blocks
    channels = torch.arange(rope.rotary_dim).view(rope.blocks, width)
    if halves:
        return torch.stack(channels.chunk(2, -1), -1).flatten(0, 1)
    return channels.view(-1, 2)

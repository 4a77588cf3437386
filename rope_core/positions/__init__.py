"""Builders of positions: from grids, lengths and coordinates to the positions of a rotation.

Each is a function of keyword arguments, and an attribute of this package. Positions are int64, or
float32 if fractional. Axes are first: `[S]` or `[B, S]` on one axis, `[A, T]` or `[A, B, S]` on
several. A token at position 0 of all axes does not rotate. Tensors are on the CPU. `BUILDERS` has
all builders by name.
"""

from collections.abc import Callable, Mapping

from torch import Tensor

from rope_core.positions import (
    coordinates,
    diffusion,
    grids,
    grouped,
    mrope,
    omni_mrope,
    sequence,
    tokens,
    xdrope,
)
from rope_core.positions.grouped import DualChunkPositions, GroupedPositions, StreamingPositions
from rope_core.positions.mrope import MROPE_FAMILIES, MropePositions
from rope_core.positions.validate import MAX_POSITIONS
from rope_core.registry import Entry, register

Built = Tensor | MropePositions | GroupedPositions | DualChunkPositions | StreamingPositions
"""What builders return: one tensor, or a frozen dataclass of tensors."""

Builder = Callable[..., Built]

_FUNCTIONS: tuple[Builder, ...] = (
    *(tokens.token_types, mrope.mrope_index, omni_mrope.omni_mrope_index, xdrope.xdrope_index),
    *(sequence.decode_positions, grids.grid_positions, grids.merge_block_positions),
    *(grids.padded_grid_positions, grids.resampled_positions, coordinates.patch_centre_positions),
    *(coordinates.window_positions, coordinates.pixel_positions),
    *(coordinates.area_normalised_positions, coordinates.atom_positions),
    *(coordinates.audio_time_positions, diffusion.flux_positions, diffusion.centred_positions),
    *(diffusion.crop_positions, diffusion.frame_rate_positions),
    *(diffusion.normalised_video_positions, diffusion.caption_positions),
    *(sequence.offset_positions, sequence.interpolated_positions, sequence.mask_positions),
    *(sequence.packed_positions, sequence.document_boundaries, grouped.self_extend_positions),
    *(grouped.rerope_positions, grouped.leaky_rerope_positions, grouped.dual_chunk_positions),
    grouped.streaming_positions,
)

BUILDERS: Mapping[str, Entry[Builder]] = register(_FUNCTIONS)
"""Every builder, by the name of its function."""

__all__ = ["BUILDERS", "MAX_POSITIONS", "MROPE_FAMILIES", "Builder", "Built", *BUILDERS]


def __getattr__(name: str) -> Builder:
    """Return the builder `name`."""
    if name in BUILDERS:
        return BUILDERS[name].function
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

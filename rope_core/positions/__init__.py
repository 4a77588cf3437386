"""Builders of positions: from grids, lengths and coordinates to what a rotation takes.

Each is a function of keyword arguments. Positions are int64, or float32 where fractional, and
axes lead: `[S]`, `[B, S]` on one axis, `[A, T]` or `[A, B, S]` on several. A token at position 0
of all axes is not rotated. All is made on the CPU. `BUILDERS` has all of them by name.
"""

from rope_core.positions.builders import BUILDERS, Builder, Built
from rope_core.positions.coordinates import (
    area_normalised_positions,
    atom_positions,
    audio_time_positions,
    patch_centre_positions,
    pixel_positions,
    window_positions,
)
from rope_core.positions.diffusion import (
    caption_positions,
    centred_positions,
    crop_positions,
    flux_positions,
    frame_rate_positions,
    normalised_video_positions,
)
from rope_core.positions.grids import (
    grid_positions,
    merge_block_positions,
    padded_grid_positions,
    resampled_positions,
)
from rope_core.positions.grouped import (
    GroupedPositions,
    StreamedPositions,
    leaky_rerope_positions,
    rerope_positions,
    self_extend_positions,
    streaming_positions,
)
from rope_core.positions.mrope import FAMILIES, MropeIds, mrope_index
from rope_core.positions.omni_mrope import omni_mrope_index
from rope_core.positions.sequence import (
    decode_positions,
    document_boundaries,
    interpolated_positions,
    mask_positions,
    offset_positions,
    packed_positions,
)
from rope_core.positions.tokens import token_types
from rope_core.positions.validate import MAX_POSITIONS
from rope_core.positions.xdrope import xdrope_index

__all__ = [
    "BUILDERS",
    "FAMILIES",
    "MAX_POSITIONS",
    "Builder",
    "Built",
    "GroupedPositions",
    "MropeIds",
    "StreamedPositions",
    "area_normalised_positions",
    "atom_positions",
    "audio_time_positions",
    "caption_positions",
    "centred_positions",
    "crop_positions",
    "decode_positions",
    "document_boundaries",
    "flux_positions",
    "frame_rate_positions",
    "grid_positions",
    "interpolated_positions",
    "leaky_rerope_positions",
    "mask_positions",
    "merge_block_positions",
    "mrope_index",
    "normalised_video_positions",
    "offset_positions",
    "omni_mrope_index",
    "packed_positions",
    "padded_grid_positions",
    "patch_centre_positions",
    "pixel_positions",
    "rerope_positions",
    "resampled_positions",
    "self_extend_positions",
    "streaming_positions",
    "token_types",
    "window_positions",
    "xdrope_index",
]

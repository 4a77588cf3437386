"""Builders of positions: from grids, lengths and coordinates to the positions of a rotation.

Each is a function of keyword arguments. Positions are int64, or float32 if fractional. Axes are
first: `[S]` or `[B, S]` on one axis, `[A, T]` or `[A, B, S]` on several. A token at position 0 of
all axes does not rotate. Tensors are on the CPU. `BUILDERS` has all builders by name.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from torch import Tensor

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
    StreamingPositions,
    leaky_rerope_positions,
    rerope_positions,
    self_extend_positions,
    streaming_positions,
)
from rope_core.positions.mrope import MROPE_FAMILIES, MropePositions, mrope_index
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
from rope_core.registry import docstring_part

Built = Tensor | MropePositions | GroupedPositions | StreamingPositions
"""What builders return: one tensor, or a frozen dataclass of tensors."""


@dataclass(frozen=True)
class Builder:
    """A function of keyword arguments that makes positions."""

    name: str
    function: Callable[..., Built]

    @property
    def summary(self) -> str:
        """The first line of the function's docstring."""
        return (self.function.__doc__ or "").partition("\n")[0]

    @property
    def models(self) -> tuple[str, ...]:
        """Models and methods with these positions, from the function's docstring."""
        return tuple(docstring_part(self.function, "Models").rstrip(".").split(", "))


_FUNCTIONS: tuple[Callable[..., Built], ...] = (
    *(token_types, mrope_index, omni_mrope_index, xdrope_index, decode_positions),
    *(grid_positions, merge_block_positions, padded_grid_positions, resampled_positions),
    *(patch_centre_positions, window_positions, pixel_positions, area_normalised_positions),
    *(atom_positions, audio_time_positions),
    *(flux_positions, centred_positions, crop_positions, frame_rate_positions),
    *(normalised_video_positions, caption_positions),
    *(offset_positions, interpolated_positions, mask_positions),
    *(packed_positions, document_boundaries),
    *(self_extend_positions, rerope_positions, leaky_rerope_positions, streaming_positions),
)

BUILDERS: Mapping[str, Builder] = MappingProxyType(
    {function.__name__: Builder(function.__name__, function) for function in _FUNCTIONS}
)
"""Every builder, by the name of its function."""

__all__ = ["BUILDERS", "MAX_POSITIONS", "MROPE_FAMILIES", "Builder", "Built", *BUILDERS]

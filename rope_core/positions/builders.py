"""What a builder is, and all of them by name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

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

Built = Tensor | mrope.MropeIds | grouped.GroupedPositions | grouped.StreamedPositions
"""What builders return: one tensor, or a frozen dataclass of them."""


@dataclass(frozen=True)
class Builder:
    """A function of keyword arguments that makes positions; its annotations are the arguments'."""

    name: str
    function: Callable[..., Built]
    models: tuple[str, ...]
    """Models and methods whose positions these are."""

    @property
    def summary(self) -> str:
        """The first line of the function's docstring."""
        return (self.function.__doc__ or "").partition("\n")[0]


_BUILDERS: tuple[tuple[Callable[..., Built], tuple[str, ...]], ...] = (
    (tokens.token_types, ("Qwen-VL", "Qwen-Omni", "GLM-4V")),
    (mrope.mrope_index, tuple(mrope.FAMILIES)),
    (omni_mrope.omni_mrope_index, tuple(omni_mrope.RATES)),
    (xdrope.xdrope_index, ("hunyuan_vl",)),
    (sequence.decode_positions, (*mrope.FAMILIES, *omni_mrope.RATES, "hunyuan_vl")),
    (grids.grid_positions, ("SAM 2", "Llama-4 vision", "EfficientLoFTR", "Wan", "V-JEPA 2")),
    (grids.merge_block_positions, ("Qwen-VL ViT", "GLM-4V ViT", "MiniMax-M3 ViT", "Pixtral")),
    (grids.padded_grid_positions, ("Gemma-4 vision",)),
    (grids.resampled_positions, ("CogView-4",)),
    (coordinates.patch_centre_positions, ("DINOv3", "EoMT", "Sapiens-2")),
    (coordinates.window_positions, ("SAM 3",)),
    (coordinates.pixel_positions, ("rotary-embedding-torch", "EVA")),
    (coordinates.area_normalised_positions, ("Mochi",)),
    (coordinates.atom_positions, ("ESMFold-2",)),
    (coordinates.audio_time_positions, ("Music Flamingo",)),
    (diffusion.flux_positions, ("Flux.1", "Flux.2", "Chroma")),
    (diffusion.centred_positions, ("Qwen-Image", "Qwen-Image-Layered")),
    (diffusion.crop_positions, ("CogVideoX",)),
    (diffusion.frame_rate_positions, ("Cosmos",)),
    (diffusion.normalised_video_positions, ("LTX-Video",)),
    (diffusion.caption_positions, ("Lumina-2", "OmniGen 2")),
    (sequence.offset_positions, ("KV cache",)),
    (sequence.interpolated_positions, ("position interpolation", "rotary-embedding-torch")),
    (sequence.mask_positions, ("left padding",)),
    (sequence.packed_positions, ("packed documents",)),
    (sequence.document_boundaries, ("packed documents",)),
    (grouped.self_extend_positions, ("SelfExtend",)),
    (grouped.rerope_positions, ("ReRoPE",)),
    (grouped.leaky_rerope_positions, ("Leaky ReRoPE",)),
    (grouped.streaming_positions, ("StreamingLLM", "attention sinks")),
)

BUILDERS: Mapping[str, Builder] = MappingProxyType(
    {
        function.__name__: Builder(function.__name__, function, models)
        for function, models in _BUILDERS
    }
)
"""Every builder, by the name of its function."""

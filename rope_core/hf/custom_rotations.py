"""Families whose configs have keys of their own: from config to the fields of a `RopeConfig`."""

from collections.abc import Callable, Mapping
from typing import Any

from rope_core.errors import ConfigError
from rope_core.hf.config_reader import Reader, brief, is_number
from rope_core.hf.head_dim import derived as head_width

Fields = dict[str, Any]


def gptj(reader: Reader) -> Fields:
    """GPT-J and CodeGen: an absolute width, a table of angles."""
    head_dim = head_width(reader)
    rotary_dim = head_dim if reader.is_null("rotary_dim") else reader.size("rotary_dim", head_dim)
    return {"head_dim": head_dim, "rotary_dim": rotary_dim, "whole_positions": True}


def roformer(reader: Reader) -> Fields:
    """RoFormer: angles in float64, in a table; values, too, where the file says so."""
    head_dim = head_width(reader)
    values = "rotated" if reader.get("rotary_value") else "kept"
    fields = {"head_dim": head_dim, "arithmetic": "float64", "values": values}
    return fields | {"whole_positions": True}


def clvp(reader: Reader) -> Fields:
    """CLVP: an eighth of the projection at least 32 wide; values rotate, too."""
    num_heads = reader.size("num_attention_heads")
    rotary_dim = max(reader.size("projection_dim") // (num_heads * 2), 32)
    head_dim = head_width(reader)
    return {"head_dim": head_dim, "rotary_dim": rotary_dim, "values": "rotated"}


def esmfold2(reader: Reader) -> Fields:
    """ESMFold2's atoms: space and molecule."""
    derived = head_width(reader)
    return {
        "head_dim": reader.size("head_dim", derived),
        "axes": "atoms",
        "num_spatial_pairs": reader.size("num_spatial_rope_pairs_per_axis"),
        "num_uid_pairs": reader.size("num_uid_rope_pairs"),
        "spatial_theta": reader.positive("spatial_rope_base_frequency"),
        "uid_theta": reader.positive("uid_rope_base_frequency"),
    }


def musicflamingo(reader: Reader) -> Fields:
    """Music Flamingo: hidden states by the time of their frame."""
    audio = reader.given("audio_config")
    width = audio.get("hidden_size", 1280) if isinstance(audio, Mapping) else 1280
    if not is_number(width):
        raise ConfigError("audio_config.hidden_size", "a number", brief(width))
    frequency_dim = int(width * reader.number("partial_rotary_factor"))
    return {**_theta(reader), "rotary_dim": 2 * frequency_dim, "axes": "timestamps"}


def vjepa2(reader: Reader) -> Fields:
    """V-JEPA 2: frame, row and column, an even third of the head each."""
    head_dim = head_width(reader)
    width = 2 * (head_dim // 3 // 2)
    fields = {"head_dim": head_dim, "rotary_dim": 3 * width, "axes": "axial"}
    return {**fields, "axes_dim": (width,) * 3}


def flux(reader: Reader) -> Fields:
    """Flux, Lumina-2, Qwen-Image: widths of the axes as they are given."""
    axes_dim = reader.sizes("axes_dims_rope", "axes_dim_rope", "axes_dim")
    return {**_theta(reader), "head_dim": sum(axes_dim), "axes": "axial", "axes_dim": axes_dim}


def wan(reader: Reader) -> Fields:
    """Wan, SkyReels-V2: a third of the head for rows and columns each, the rest for time."""
    head_dim = reader.size("attention_head_dim", 128)
    side = 2 * (head_dim // 6)
    axes_dim = (head_dim - 2 * side, side, side)
    return {**_theta(reader), "head_dim": head_dim, "axes": "axial", "axes_dim": axes_dim}


def hunyuan_video(reader: Reader) -> Fields:
    """HunyuanVideo: widths of the axes as they are given."""
    axes_dim = reader.sizes("rope_axes_dim", "rope_dim")
    return {**_theta(reader), "head_dim": sum(axes_dim), "axes": "axial", "axes_dim": axes_dim}


def cogvideox(reader: Reader) -> Fields:
    """CogVideoX: a quarter of the head for time."""
    head_dim = reader.first_size("embed_dim", "attention_head_dim", default=64)
    axes_dim = (head_dim // 4, head_dim // 8 * 3, head_dim // 8 * 3)
    return {**_theta(reader), "head_dim": head_dim, "axes": "axial", "axes_dim": axes_dim}


def cosmos(reader: Reader) -> Fields:
    """Cosmos: as Wan, the base of each axis stretched."""
    head_dim = reader.first_size("attention_head_dim", "hidden_size", default=128)
    side = head_dim // 6 * 2
    scale = reader.get("rope_scale", (2.0, 1.0, 1.0))
    if not isinstance(scale, list | tuple) or not all(is_number(x) and x > 0 for x in scale):
        raise ConfigError("rope_scale", "a list of numbers above 0", brief(scale))
    return {
        "head_dim": head_dim,
        "axes": "axial_ntk",
        "axes_dim": (head_dim - 2 * side, side, side),
        "rope_scale": tuple(scale),
    }


def ltx(reader: Reader) -> Fields:
    """LTX-Video: the whole inner width, but for what three axes do not share."""
    derived = reader.size("num_attention_heads", 32) * reader.size("attention_head_dim", 64)
    width = reader.size("dim", derived)
    rotary_dim = width - width % 6
    fields = {**_theta(reader), "head_dim": width, "rotary_dim": rotary_dim}
    return {**fields, "axes": "axial_log", "trailing": True}


def cogview4(reader: Reader) -> Fields:
    """CogView-4: half of the head an axis."""
    head_dim = reader.first_size("dim", "attention_head_dim", default=128)
    axes_dim = (head_dim // 2, head_dim // 2)
    return {**_theta(reader), "head_dim": head_dim, "axes": "axial", "axes_dim": axes_dim}


def lumina(reader: Reader) -> Fields:
    """Lumina-Next: two axes that take turns."""
    derived = head_width(reader)
    head_dim = reader.size("embed_dim", derived) if derived else reader.size("embed_dim")
    return {"head_dim": head_dim, "axes": "axial_alternating", **_stretched(reader)}


def one_axis(reader: Reader) -> Fields:
    """Diffusers' plain embedding, `get_1d_rotary_pos_embed`."""
    precise = reader.get("freqs_dtype") == "float64"
    spread = reader.get("repeat_interleave_real", True)
    return {
        "head_dim": reader.size("dim"),
        **_stretched(reader),
        **({"arithmetic": "float64"} if precise else {}),
        **({} if spread else {"layout": "half"}),
    }


def mochi(reader: Reader) -> Fields:
    """Mochi: frequencies come with the call."""
    head_dim = reader.first_size("attention_head_dim", "head_dim", default=128)
    return {"head_dim": head_dim, "learned": "frequencies"}


def rotary_embedding_torch(reader: Reader) -> Fields:
    """rotary-embedding-torch: the arguments of its `RotaryEmbedding`."""
    rotary_dim = reader.size("dim")
    fields: Fields = {"rotary_dim": rotary_dim, **_theta(reader)}
    factor = reader.positive("theta_rescale_factor", 1.0)
    if factor != 1:
        fields |= {"rope_type": "ntk", "factor": factor}
    if reader.get("use_xpos"):
        base = float(reader.number("xpos_scale_base", 512))
        fields |= {"rope_type": "xpos", "scale_base": base}
    kind = reader.get("freqs_for", "lang")
    if kind == "pixel":
        max_freq = float(reader.number("max_freq", 10))
        return fields | {"rotary_dim": 2 * rotary_dim, "axes": "axial_pixel", "max_freq": max_freq}
    if kind != "lang":
        raise ConfigError("freqs_for", '"lang" or "pixel"', brief(kind))
    interpolation = reader.number("interpolate_factor", 1.0)
    if interpolation != 1:
        fields |= {"axes": "interpolated", "interpolate_factor": interpolation}
    return fields


def _theta(reader: Reader) -> Fields:
    for key in ("theta", "rope_theta"):
        if reader.given(key) is not None:
            return {"theta": float(reader.number(key))}
    return {"theta": float(reader.number("rope_theta", 10_000.0))}


def _stretched(reader: Reader) -> Fields:
    """In diffusers ntk_factor multiplies the base, its linear_factor divides frequencies."""
    theta = _theta(reader)["theta"] * reader.positive("ntk_factor", 1.0)
    factor = reader.number("linear_factor", 1.0)
    scaled = {} if factor == 1 else {"rope_type": "linear", "factor": factor}
    return {"theta": theta, **scaled}


SPECIAL: Mapping[str, Callable[[Reader], Fields]] = {
    function.__name__: function
    for function in (
        *(gptj, roformer, clvp, esmfold2, musicflamingo, vjepa2),
        *(flux, wan, hunyuan_video, cogvideox, cosmos, ltx, cogview4, lumina, one_axis, mochi),
        rotary_embedding_torch,
    )
}
"""The functions by name, as rows of the table have them."""

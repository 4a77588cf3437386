"""Families whose configs have other keys than Llama's, and no rope parameters.

The functions are named in the rows of `families.json`. Each takes the reader, and returns the
fields of a `RopeConfig` that depend on the config; `rope_config` of the row has the others. Their
sources are the classes of transformers or diffusers, unless another is named.
"""

from collections.abc import Mapping
from typing import Any

from rope_core.errors import ConfigError, brief
from rope_core.hf.config_reader import ConfigReader, is_number
from rope_core.hf.head_dim import derived as derived_head_dim

Fields = dict[str, Any]


def gptj(reader: ConfigReader) -> Fields:
    """GPT-J, CodeGen: `rotary_dim` channels, angles from a table."""
    head_dim = derived_head_dim(reader)
    rotary_dim = head_dim if reader.is_null("rotary_dim") else reader.size("rotary_dim", head_dim)
    return {"head_dim": head_dim, "rotary_dim": rotary_dim}


def roformer(reader: ConfigReader) -> Fields:
    """RoFormer: angles in float64 from a table; `rotary_value` rotates values also."""
    return {
        "head_dim": derived_head_dim(reader),
        "values": "rotated" if reader.get("rotary_value") else "kept",
    }


def clvp(reader: ConfigReader) -> Fields:
    """CLVP: half of projection_dim / num_attention_heads, at least 32; values rotate also."""
    num_heads = reader.size("num_attention_heads")
    rotary_dim = max(reader.size("projection_dim") // (num_heads * 2), 32)
    return {"head_dim": derived_head_dim(reader), "rotary_dim": rotary_dim}


def esmfold2(reader: ConfigReader) -> Fields:
    """ESMFold-2: the coordinates of atoms, and the number of their molecule."""
    derived = derived_head_dim(reader)
    return {
        "head_dim": reader.size("head_dim", derived),
        "num_spatial_pairs": reader.size("num_spatial_rope_pairs_per_axis"),
        "num_uid_pairs": reader.size("num_uid_rope_pairs"),
        "spatial_theta": reader.positive("spatial_rope_base_frequency"),
        "uid_theta": reader.positive("uid_rope_base_frequency"),
    }


def musicflamingo(reader: ConfigReader) -> Fields:
    """Music Flamingo: hidden states rotate by the time of their audio frame."""
    audio = reader.from_file("audio_config")
    width = audio.get("hidden_size", 1280) if isinstance(audio, Mapping) else 1280
    if not is_number(width):
        raise ConfigError("audio_config.hidden_size", "a number", brief(width))
    frequency_dim = int(width * reader.number("partial_rotary_factor"))
    return {**_theta(reader), "rotary_dim": 2 * frequency_dim}


def vjepa2(reader: ConfigReader) -> Fields:
    """V-JEPA 2: frame, row and column have an equal third of the head each."""
    head_dim = derived_head_dim(reader)
    width = 2 * (head_dim // 3 // 2)
    return {"head_dim": head_dim, "rotary_dim": 3 * width, "axes_dim": (width,) * 3}


def axes_dims(reader: ConfigReader) -> Fields:
    """Qwen-Image, Flux, Lumina-2: the config has the width of each axis."""
    widths = reader.sizes("axes_dims_rope", "axes_dim_rope", "axes_dim")
    return _axial(reader, sum(widths), widths)


def wan(reader: ConfigReader) -> Fields:
    """Wan, SkyReels-V2: rows and columns have a third of the head each."""
    head_dim = reader.size("attention_head_dim", 128)
    side = 2 * (head_dim // 6)
    return _axial(reader, head_dim, (head_dim - 2 * side, side, side))


def hunyuan_video(reader: ConfigReader) -> Fields:
    """HunyuanVideo: the config has the width of each axis."""
    widths = reader.sizes("rope_axes_dim", "rope_dim")
    return _axial(reader, sum(widths), widths)


def cogvideox(reader: ConfigReader) -> Fields:
    """CogVideoX: frames have a quarter of the head."""
    head_dim = reader.first_size("embed_dim", "attention_head_dim", default=64)
    return _axial(reader, head_dim, (head_dim // 4, head_dim // 8 * 3, head_dim // 8 * 3))


def cosmos(reader: ConfigReader) -> Fields:
    """Cosmos: widths as in Wan, and `rope_scale` scales the base of each axis."""
    head_dim = reader.first_size("attention_head_dim", "hidden_size", default=128)
    side = head_dim // 6 * 2
    scale = reader.get("rope_scale", (2.0, 1.0, 1.0))
    if not isinstance(scale, list | tuple) or not all(is_number(x) and x > 0 for x in scale):
        raise ConfigError("rope_scale", "a list of numbers above 0", brief(scale))
    return {
        "head_dim": head_dim,
        "axes_dim": (head_dim - 2 * side, side, side),
        "rope_scale": tuple(scale),
    }


def ltx(reader: ConfigReader) -> Fields:
    """LTX-Video: the hidden states, without the leading channels that three axes cannot share."""
    derived = reader.size("num_attention_heads", 32) * reader.size("attention_head_dim", 64)
    width = reader.size("dim", derived)
    return {**_theta(reader), "head_dim": width, "rotary_dim": width - width % 6}


def cogview4(reader: ConfigReader) -> Fields:
    """CogView-4: rows and columns have half of the head each."""
    head_dim = reader.first_size("dim", "attention_head_dim", default=128)
    return _axial(reader, head_dim, (head_dim // 2, head_dim // 2))


def lumina(reader: ConfigReader) -> Fields:
    """Lumina-Next: each frequency is used by rows, then by columns."""
    derived = derived_head_dim(reader)
    head_dim = reader.size("embed_dim", derived)
    return {"head_dim": head_dim, **_scaled(reader)}


def one_axis(reader: ConfigReader) -> Fields:
    """The function `get_1d_rotary_pos_embed` of diffusers: its arguments."""
    precise = reader.get("freqs_dtype") == "float64"
    interleaved = reader.get("repeat_interleave_real", True)
    return {
        "head_dim": reader.size("dim"),
        **_scaled(reader),
        **({"arithmetic": "float64"} if precise else {}),
        **({} if interleaved else {"layout": "half"}),
    }


def mochi(reader: ConfigReader) -> Fields:
    """Mochi: frequencies are weights of the model, which the call has."""
    return {"head_dim": reader.first_size("attention_head_dim", "head_dim", default=128)}


def lightglue(reader: ConfigReader) -> Fields:
    """LightGlue: frequencies of x and y are weights of the model, the same for all heads."""
    return {"head_dim": derived_head_dim(reader)}


def rotary_embedding_torch(reader: ConfigReader) -> Fields:
    """The package rotary-embedding-torch: the arguments of its class `RotaryEmbedding`."""
    rotary_dim = reader.size("dim")
    fields: Fields = {"rotary_dim": rotary_dim, **_theta(reader)}
    factor = reader.positive("theta_rescale_factor", 1.0)
    if factor != 1:
        fields |= {"rope_type": "ntk", "factor": factor}
    if reader.get("use_xpos"):
        base = float(reader.number("xpos_scale_base", 512))
        fields |= {"rope_type": "xpos", "scale_base": base}
    freqs_for = reader.get("freqs_for", "lang")
    if freqs_for == "pixel":
        max_freq = float(reader.number("max_freq", 10))
        return fields | {"rotary_dim": 2 * rotary_dim, "axes": "axial_pixel", "max_freq": max_freq}
    if freqs_for != "lang":
        raise ConfigError("freqs_for", '"lang" or "pixel"', brief(freqs_for))
    interpolation = reader.number("interpolate_factor", 1.0)
    if interpolation != 1:
        fields |= {"axes": "interpolated", "interpolate_factor": interpolation}
    return fields


def _axial(reader: ConfigReader, head_dim: int, axes_dim: tuple[int, ...]) -> Fields:
    return {**_theta(reader), "head_dim": head_dim, "axes_dim": axes_dim}


def _theta(reader: ConfigReader) -> Fields:
    if reader.from_file("theta") is not None:
        return {"theta": float(reader.number("theta"))}
    return {"theta": float(reader.number("rope_theta", 10_000.0))}


def _scaled(reader: ConfigReader) -> Fields:
    """Return the base times diffusers' `ntk_factor`, and frequencies divided by `linear_factor`."""
    theta = _theta(reader)["theta"] * reader.positive("ntk_factor", 1.0)
    factor = reader.number("linear_factor", 1.0)
    linear = {} if factor == 1 else {"rope_type": "linear", "factor": factor}
    return {"theta": theta, **linear}

"""Read again what a configuration class writes.

For each configuration class of transformers that `rope_core.hf` knows: its default config, and a
few changed ones, as `to_dict`, as JSON, and as the difference from the defaults that
`save_pretrained` writes. Each is read to the layer types, the frequencies and the softmax scale of
the model's own classes, and the default also to the same layers as a file with the model_type
alone.

Run it with `python -m tools.parity.round_trip`. The exit status is 1 if a difference is not listed
in `ON_PURPOSE`.
"""

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from typing import Any

import torch
from transformers import PreTrainedConfig

from rope_core.errors import ConfigError
from rope_core.hf import find_family, resolve
from rope_core.hf.family import UNKNOWN
from rope_core.hf.resolve import Resolved
from tools.parity.classes import config_classes
from tools.parity.rotary_modules import RotaryModule, layer_types, part_of

CHANGES: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    "5 layers": {"num_hidden_layers": 5},
    "another base": {"rope_theta": 77777.0},
    "linear": {"rope_scaling": {"rope_type": "linear", "factor": 4.0}},
}
"""Arguments of the classes."""

FORMS: Mapping[str, Callable[[Any], dict[str, Any]]] = {
    "to_dict": lambda config: config.to_dict(),
    "JSON": lambda config: json.loads(config.to_json_string(use_diff=False)),
    "JSON of differences": lambda config: json.loads(config.to_json_string()),
}

PARTS = ("text", "vision", "audio")

_HEADS = (
    "refused: the class's own heads do not divide its hidden_size, released files have head_dim"
)
_SECTIONS = "refused: the class's own sections do not add up to the pairs of its head"
_NESTED = "a whole file names the class of its part; model_type alone is the family of the module"
_PARTLESS = "by model_type alone the model is the one with text: a vision part needs its config"
_TRACKER = "model_type alone is the memory attention; vision_config is that of the image encoder"
_CENTRED = "refused: the class ignores a scaled rope_type"
ON_PURPOSE = (
    ("glm4_moe", "no multiple of 96 heads", _HEADS),
    ("glm4v_moe", "no multiple of 96 heads", _HEADS),
    ("glm4v_moe_text", "no multiple of 96 heads", _HEADS),
    ("qwen3_omni_moe", "no multiple of 28 heads", _HEADS),
    ("qwen3_omni_moe_text", "no multiple of 28 heads", _HEADS),
    ("qwen3_omni_moe_thinker", "no multiple of 28 heads", _HEADS),
    ("qwen3_omni_moe_talker_text", "add up to 32 pairs", _SECTIONS),
    ("qwen4_exp", "add up to 128 pairs", _SECTIONS),
    ("qwen4_exp_text", "add up to 128 pairs", _SECTIONS),
    ("musicflamingo", "by model_type alone", _NESTED),
    ("pe_audio_video_encoder", "by model_type alone", _NESTED),
    ("pe_video", "by model_type alone", _NESTED),
    ("voxtral_realtime", "by model_type alone", _NESTED),
    ("edgetam_video", "vision of", _TRACKER),
    ("sam2_video", "vision of", _TRACKER),
    ("sam3_tracker_video", "vision of", _TRACKER),
    ("git", "vision of", _PARTLESS),
    ("slanext", "vision of", _PARTLESS),
    ("nemo_speechlm", "by model_type alone", "that has the layers of the part's own class"),
    ("eomt_dinov3", "axial_centred", _CENTRED),
    ("openai_privacy_filter", "softmax scale", "the model scales queries and keys by D ** -0.25"),
    ("mistral4", "linear", "rope_scaling lacks the class's share, and the model fails"),
)
"""Differences that are right: the model_type, words of the difference, and why."""


def main() -> int:
    """Print a line for each difference, and the counts; return the exit status."""
    num_read, num_unknown, unexplained = 0, 0, 0
    for cls in filter(lambda cls: cls.model_type, config_classes()):
        found = differences(cls)
        num_read, num_unknown = num_read + (found is not None), num_unknown + (found is None)
        for text in found or ():
            why = reason(cls.model_type, text)
            unexplained += why is None
            print(f"{cls.model_type}: {text}{f' ({why})' if why else ''}")
    print(f"{num_read} classes read again, {num_unknown} unknown; {unexplained} unexplained")
    return 1 if unexplained else 0


def reason(model_type: str, text: str) -> str | None:
    """Return why a difference is right, None if it is not."""
    return next(
        (why for name, part, why in ON_PURPOSE if name == model_type and part in text), None
    )


def differences(
    cls: type[PreTrainedConfig], changes: Mapping[str, Mapping[str, Any]] = CHANGES
) -> list[str] | None:
    """Return what is read otherwise than the class says; None if the reader does not know it."""
    found: dict[str, None] = {}
    is_known = False
    for change, arguments in changes.items():
        try:
            config = cls(**deepcopy(dict(arguments)))
        except Exception:  # the class needs other arguments, or refuses these
            continue
        for part in PARTS:
            own = part_of(config, part)
            if own is None or (own is not config and arguments):
                continue
            named = None if own is config else part
            rotary = _rotary(own)
            for form, write in FORMS.items():
                written = write(config)
                if _is_known(written, named):
                    is_known = True
                    for text in _compare(written, own, rotary, named):
                        found[f"{change}, {part} of {form}: {text}"] = None
                    if not arguments:
                        for text in _compare_with_name(written, own, named):
                            found[f"{part} of {form}: {text}"] = None
    return list(found) if is_known else None


def _is_known(written: dict[str, Any], part: str | None) -> bool:
    try:
        return find_family.find(written, None, part, None).family is not UNKNOWN
    except ConfigError:  # the family has no such part
        return False


def _rotary(config: PreTrainedConfig) -> RotaryModule | None:
    try:
        return RotaryModule.of(config)
    except Exception:  # the model does not take this config
        return None


def _layers(config: PreTrainedConfig) -> list[tuple[int | None, str | None]]:
    """Return the first layer of each type, and the type."""
    types = layer_types(config)
    return [(types.index(name), name) for name in dict.fromkeys(types)] if types else [(None, None)]


def _read(contents: dict[str, Any], part: str | None, layer: int | None) -> Resolved | str:
    try:
        return resolve(contents, part=part, layer=layer)
    except ConfigError as error:
        return str(error)


def _compare(
    written: dict[str, Any], own: PreTrainedConfig, rotary: RotaryModule | None, part: str | None
) -> Iterator[str]:
    """Return the differences from the model's own classes."""
    for layer, layer_type in _layers(own) if rotary is not None else ():
        assert rotary is not None
        read, where = _read(written, part, layer), f"layer {layer}"
        if isinstance(read, str):
            if "mrope_section" not in read or _takes_three_axes(rotary):
                yield f"{where}: refused, {read}"
            continue
        if read.layer_type not in (layer_type, None):
            yield f"{where}: {read.layer_type}, the class's {layer_type}"
        if read.rope is None:
            continue
        expected, actual = rotary.inv_freq(layer_type), read.rope.inv_freq
        if expected is not None:
            if read.rope.axes is not None:  # the model repeats the frequencies for each axis
                actual, expected = torch.unique(actual), torch.unique(expected)
            if not torch.equal(actual, expected):
                yield f"{where}: frequencies {_brief(actual)}, the model's {_brief(expected)}"
            if read.rope.attention_scaling != rotary.attention_scaling(layer_type):
                yield f"{where}: gain {read.rope.attention_scaling}"
        scale = read.attention.scale or read.rope.head_dim**-0.5
        own_scale = rotary.softmax_scale(layer or 0)
        if own_scale is not None and abs(scale - own_scale) > 1e-9 * own_scale:
            yield f"{where}: softmax scale {scale}, the model's {own_scale}"


def _takes_three_axes(rotary: RotaryModule) -> bool:
    """Return whether the model itself can rotate with its sections of the frequencies."""
    try:
        rotary.tables(torch.zeros(1), torch.zeros(3, 1, 1, dtype=torch.int64))
    except (RuntimeError, IndexError):
        return False
    return True


def _brief(frequencies: torch.Tensor) -> str:
    return f"{len(frequencies)}: {frequencies[:3].tolist()}"


def _compare_with_name(
    written: dict[str, Any], own: PreTrainedConfig, part: str | None
) -> Iterator[str]:
    """Return the differences from a file with the model_type alone."""
    for layer, _ in _layers(own):
        read = _read(written, part, layer)
        by_name = _read({"model_type": written["model_type"]}, part, layer)
        if isinstance(read, str) or isinstance(by_name, str):
            continue
        facts, expected = _facts(read), _facts(by_name)
        for name in facts if by_name.layers else facts.keys() - {"layers", "layer_type"}:
            if facts[name] != expected[name]:
                what = f"{facts[name]}, by model_type alone {expected[name]}"
                yield f"layer {layer}: {name} {what}"


def _facts(resolved: Resolved) -> dict[str, Any]:
    groups = resolved.layers
    return {
        "family": resolved.model_type,
        "rotation": resolved.rope,
        "whether it rotates": resolved.nope is None,
        "layer_type": resolved.layer_type,
        "attention": resolved.attention,
        "layers": [(group.layer_type, group.layers, group.nope is None) for group in groups],
    }


if __name__ == "__main__":
    sys.exit(main())

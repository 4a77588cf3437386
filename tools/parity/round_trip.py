"""Read again what a configuration class writes.

For each configuration class of transformers that `rope_core.hf` knows: the default config as
`to_dict`, as JSON, and as the difference from the class's defaults that `save_pretrained` writes.
Each is read to the frequencies of the model's own rotary module, and to the same layers as a file
with the model_type alone.

Run it with `python -m tools.parity.round_trip`. The exit status is 1 if a difference is not listed
in `ON_PURPOSE`.
"""

import inspect
import json
import pkgutil
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import Any

import torch
import transformers.models
from transformers import PreTrainedConfig

from rope_core.errors import ConfigError
from rope_core.hf import families, resolve
from rope_core.hf.family import UNKNOWN
from rope_core.hf.resolve import Resolved
from tools.parity.rotary_modules import RotaryModule, part_of

ON_PURPOSE: Mapping[str, str] = {}
"""Differences that are right, by model_type, and why."""

FORMS: Mapping[str, Callable[[Any], dict[str, Any]]] = {
    "to_dict": lambda config: config.to_dict(),
    "JSON": lambda config: json.loads(config.to_json_string(use_diff=False)),
    "JSON of differences": lambda config: json.loads(config.to_json_string()),
}

PARTS = ("text", "vision", "audio")


def main() -> int:
    """Print a line for each difference, and the counts; return the exit status."""
    num_read, num_unknown, unexplained = 0, 0, 0
    for cls in config_classes():
        found = differences(cls)
        if found is None:
            num_unknown += 1
            continue
        num_read += 1
        for text in found:
            reason = ON_PURPOSE.get(cls.model_type)
            unexplained += reason is None
            print(f"{cls.model_type or cls.__name__}: {text}{f' ({reason})' if reason else ''}")
    print(f"{num_read} classes read again, {num_unknown} unknown; {unexplained} unexplained")
    return 1 if unexplained else 0


def config_classes() -> Iterator[type[PreTrainedConfig]]:
    """Return each configuration class of transformers that has a model_type."""
    for package in pkgutil.iter_modules(transformers.models.__path__):
        folder = import_module(f"transformers.models.{package.name}")
        for entry in pkgutil.iter_modules(getattr(folder, "__path__", ())):
            if entry.name.startswith("configuration_"):
                module = import_module(f"{folder.__name__}.{entry.name}")
                yield from _of_module(module)


def _of_module(module: Any) -> Iterator[type[PreTrainedConfig]]:
    for name, cls in vars(module).items():
        is_config = inspect.isclass(cls) and issubclass(cls, PreTrainedConfig)
        if (
            is_config
            and cls.model_type
            and (cls.__module__, cls.__name__) == (module.__name__, name)
        ):
            yield cls


def differences(cls: type[PreTrainedConfig]) -> list[str] | None:
    """Return what is read otherwise than the class says; None if the reader does not know it."""
    alone = {"model_type": cls.model_type}
    try:
        config = cls()
    except Exception:  # a class without defaults has nothing to write
        return None
    found: dict[str, None] = {}
    is_known = False
    for part in PARTS:
        own = part_of(config, part)
        if own is None:
            continue
        part_name = None if part == "text" and own is config else part
        for form, write in FORMS.items():
            written = write(config)
            if not _is_known(written, part_name):
                continue
            is_known = True
            for text in _compare(written, alone, own, part_name):
                found[f"{part} of {form}: {text}"] = None
    return list(found) if is_known else None


def _is_known(written: dict[str, Any], part: str | None) -> bool:
    try:
        return families.find(written, None, part, None)[0] is not UNKNOWN
    except ConfigError:  # the family has no such part
        return False


def _compare(
    written: dict[str, Any], alone: dict[str, Any], own: PreTrainedConfig, part: str | None
) -> Iterator[str]:
    rotary = _rotary(own)
    types = getattr(own, "layer_types", None) or getattr(own, "layers_block_type", None)
    for layer in _layers(own, types):
        layer_type = types[layer] if types and layer is not None else None
        read = _read(written, part, layer)
        if isinstance(read, str):
            if rotary is not None and not read.startswith("part must be"):
                yield f"layer {layer}: refused, {read}"
            continue
        by_name = _read(alone, part, layer)
        if not isinstance(by_name, str):
            facts, expected = _facts(read), _facts(by_name)
            for name in facts if by_name.layers else facts.keys() - {"layers", "layer_type"}:
                if facts[name] != expected[name]:
                    what = f"{facts[name]}, by model_type alone {expected[name]}"
                    yield f"layer {layer}: {name} {what}"
        if rotary is not None and read.rope is not None:
            yield from _compare_frequencies(read, rotary, layer_type, layer)


def _rotary(config: PreTrainedConfig) -> RotaryModule | None:
    try:
        return RotaryModule.of(config)
    except Exception:  # a default config that the model itself does not take
        return None


def _layers(config: PreTrainedConfig, types: list[str] | None) -> list[int | None]:
    """Return the first layer of each type, or none."""
    if not types:
        return [None]
    return [types.index(layer_type) for layer_type in dict.fromkeys(types)]


def _read(contents: dict[str, Any], part: str | None, layer: int | None) -> Resolved | str:
    try:
        return resolve(contents, part=part, layer=layer)
    except ConfigError as error:
        return str(error)


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


def _compare_frequencies(
    read: Resolved, rotary: RotaryModule, layer_type: str | None, layer: int | None
) -> Iterator[str]:
    assert read.rope is not None
    expected, actual = rotary.inv_freq(layer_type), read.rope.inv_freq
    if expected is None:
        return
    if read.rope.axes is not None:  # the model repeats the frequencies for each axis
        actual, expected = torch.unique(actual), torch.unique(expected)
    if not torch.equal(actual, expected):
        yield (
            f"layer {layer}: {len(actual)} frequencies {actual[:3].tolist()}, "
            f"the model's {len(expected)} {expected[:3].tolist()}"
        )
    if read.rope.attention_scaling != rotary.attention_scaling(layer_type):
        yield f"layer {layer}: gain {read.rope.attention_scaling}"


if __name__ == "__main__":
    sys.exit(main())

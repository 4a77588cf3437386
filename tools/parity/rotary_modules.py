"""What transformers' own classes make of a config: the parts of a model and their rotary modules.

Nothing here shares code with `rope_core`, apart from the names of the parts.
"""

import inspect
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

os.environ.setdefault("HF_HUB_OFFLINE", "1")
logging.getLogger("transformers").setLevel(logging.ERROR)  # it comments on the files' configs

from transformers import PreTrainedConfig  # noqa: E402 (offline must be set before)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING  # noqa: E402

NESTED = {
    "text": ("text_config", "llm_config", "language_config", "thinker_config"),
    "vision": ("vision_config",),
    "audio": ("audio_config",),
}
"""Attributes of a composite configuration with that of a part."""

ROTARY = ("RotaryEmbedding", "RotaryPositionalEmbedding", "RopePositionEmbedding")
"""How the names of rotary modules end."""


def from_file(contents: Mapping[str, Any]) -> Any:
    """Return a config.json as the object of its class.

    Raises:
        KeyError: transformers has no class of this model_type.
    """
    return CONFIG_MAPPING[contents["model_type"]].from_dict(dict(contents))


def part_of(config: Any, part: str) -> Any | None:
    """Return the configuration of a part of a model; None if the model has no such part."""
    found = config if part == "text" else None
    for name in NESTED[part] * 2:  # a thinker_config has a text_config inside
        inner = getattr(found or config, name, None)
        found = inner if isinstance(inner, PreTrainedConfig) else found
    return found


def layer_types(config: Any) -> list[str] | None:
    """Return the type of each layer of a configuration, None if the layers have no types."""
    return getattr(config, "layer_types", None) or getattr(config, "layers_block_type", None)


@dataclass(frozen=True, eq=False)
class RotaryModule:
    """The rotary module of a model, built from its configuration."""

    config: Any
    module: torch.nn.Module

    @classmethod
    def of(cls, config: Any) -> "RotaryModule | None":
        """Build the rotary module of a configuration; None if its model's code has none."""
        module = rotary_class(type(config))
        return None if module is None else cls(config, module(config))

    @property
    def layer_types(self) -> list[str] | None:
        """The type of each layer, None if the layers have no types."""
        return layer_types(self.config)

    def of_layer_type(self, name: str, layer_type: str | None) -> Any:
        """Return an attribute of the module, that of the layer's type if it has one for each."""
        label = self.label(layer_type)
        return getattr(self.module, f"{label}_{name}", getattr(self.module, name, None))

    def label(self, layer_type: str | None) -> str | None:
        """Return the name of a layer type in the module's buffers."""
        if type(self.config).__name__ == "DeepseekV4Config" and layer_type is not None:
            return "main" if layer_type == "sliding_attention" else "compress"
        return layer_type

    def inv_freq(self, layer_type: str | None = None) -> Tensor | None:
        """Return the frequencies of a layer type."""
        found: Tensor | None = self.of_layer_type("inv_freq", layer_type)
        return found

    def attention_scaling(self, layer_type: str | None = None) -> float:
        """Return the factor of cosine and sine."""
        found = self.of_layer_type("attention_scaling", layer_type)
        return 1.0 if found is None else float(found)

    def tables(self, x: Tensor, positions: Tensor, layer_type: str | None = None) -> Any:
        """Return cosine and sine at the positions, or complex numbers."""
        names = inspect.signature(self.module.forward).parameters
        of_type = {"layer_type": self.label(layer_type)} if "layer_type" in names else {}
        return self.module(x, positions, **of_type)

    def softmax_scale(self, layer: int) -> float | None:
        """Return the scale of a layer's attention; None if its class is not of the usual form."""
        made = attention_class(type(self.module))
        if made is None:
            return None
        arguments = (
            {"layer_idx": layer} if "layer_idx" in inspect.signature(made).parameters else {}
        )
        try:
            with torch.device("meta"):  # without memory for weights
                attention = made(self.config, **arguments)
        except (AttributeError, TypeError, ValueError):  # it takes other arguments
            return None
        found = getattr(attention, "scaling", getattr(attention, "scale", None))
        return found if isinstance(found, float) else None


def attention_class(rotary: type) -> Any:
    """Return the attention class beside a rotary module, None without one."""
    stem = rotary.__name__.removesuffix("RotaryEmbedding")
    names = (f"{stem}Attention", f"{stem.removesuffix('Text')}Attention")
    code = vars(import_module(rotary.__module__))
    return next((code[name] for name in names if name in code), None)


def modeling(config_class: type) -> ModuleType | None:
    """Return the module with the model of a configuration class."""
    name = config_class.__module__.replace("configuration_", "modeling_")
    try:
        return import_module(name)
    except ModuleNotFoundError:
        return None


def rotary_class(config_class: type) -> type | None:
    """Return the rotary module that is built from a configuration class, None without one.

    The annotation of its constructor names the class; a module that names another, as copied code
    does, is that of the text or of the only part.
    """
    module = modeling(config_class)
    classes = dict(_rotary_classes(module)) if module else {}
    for cls, annotation in classes.items():
        if annotation == config_class.__name__:
            return cls
    words = ("Vision", "Audio", "DiT", "Talker", "Code2Wav", "SaProt")
    of_part = [word for word in words if word in config_class.__name__]
    alike = [c for c in classes if [word for word in words if word in c.__name__] == of_part]
    return alike[0] if alike else None


def _rotary_classes(module: ModuleType) -> Iterator[tuple[type, str]]:
    for name, cls in vars(module).items():
        if not inspect.isclass(cls) or cls.__module__ != module.__name__:
            continue
        if name.endswith(ROTARY):
            annotation = inspect.signature(cls).parameters.get("config")
            kind = annotation.annotation if annotation else ""
            yield cls, kind if isinstance(kind, str) else kind.__name__

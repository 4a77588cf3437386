"""The configuration classes of transformers, and the model class of each."""

import inspect
import logging
import os
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any, cast

os.environ.setdefault("HF_HUB_OFFLINE", "1")
logging.getLogger("transformers").setLevel(logging.CRITICAL)

import transformers.models  # noqa: E402
from transformers import PreTrainedConfig, PreTrainedModel  # noqa: E402
from transformers.models.auto.modeling_auto import MODEL_MAPPING  # noqa: E402


@dataclass(frozen=True, slots=True)
class Entry:
    """One configuration class."""

    model_type: str
    config_class: type[PreTrainedConfig]
    model_class: type[PreTrainedModel] | None
    module: ModuleType | None
    """The module of the model; None if transformers has no such module."""


def all_entries() -> list[Entry]:
    """Return each configuration class of transformers, those of nested configs included."""
    return [_entry(config_class) for config_class in config_classes()]


def entries(folder: str) -> list[Entry]:
    """Return the configuration classes of one folder of models."""
    return [_entry(config_class) for config_class in _classes_in(folder)]


def config_classes() -> Iterator[type[PreTrainedConfig]]:
    """Return each configuration class of transformers, without its model."""
    for folder in pkgutil.iter_modules(transformers.models.__path__):
        yield from _classes_in(folder.name)


def _classes_in(folder: str) -> Iterator[type[PreTrainedConfig]]:
    package = import_module(f"transformers.models.{folder}")
    for info in pkgutil.iter_modules(getattr(package, "__path__", ())):
        if not info.name.startswith("configuration_"):
            continue
        module = import_module(f"{package.__name__}.{info.name}")
        for name, value in vars(module).items():
            is_config = inspect.isclass(value) and issubclass(value, PreTrainedConfig)
            if is_config and (value.__module__, value.__name__) == (module.__name__, name):
                yield value


def _entry(config_class: type[PreTrainedConfig]) -> Entry:
    folder = config_class.__module__.split(".")[2]
    stem = config_class.__module__.rsplit("configuration_", 1)[-1]
    try:
        module = import_module(f"transformers.models.{folder}.modeling_{stem}")
    except ImportError:
        module = None
    model_class = None if module is None else _model_class(config_class, module)
    return Entry(config_class.model_type, config_class, model_class, module)


def _model_class(
    config_class: type[PreTrainedConfig], module: ModuleType
) -> type[PreTrainedModel] | None:
    """Return the model that a config of the class describes, without a head."""
    own = [
        value
        for value in vars(module).values()
        if inspect.isclass(value)
        and issubclass(value, PreTrainedModel)
        and value.__module__ == module.__name__
        and not value.__name__.endswith("PreTrainedModel")
    ]
    try:
        found: Any = MODEL_MAPPING[config_class]
        found = found[0] if isinstance(found, tuple) else found
        if found in own:
            return cast(type[PreTrainedModel], found)
    except (KeyError, ValueError):
        pass
    fitting = [value for value in own if _config_of(value) is config_class]
    fitting.sort(key=lambda value: ("For" in value.__name__, own.index(value)))
    return fitting[0] if fitting else None


def _config_of(model_class: type[PreTrainedModel]) -> Any:
    annotation = model_class.__init__.__annotations__.get("config")
    return annotation if annotation is not None else getattr(model_class, "config_class", None)

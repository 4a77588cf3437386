"""What a model of transformers does in each layer: its rotation and its mask.

The model is built without weights, on the device "meta"; only its rotary modules compute. A forward
pass runs through all layers, each up to its attention, and records what arrives there.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights

TOKENS = 3
LAYER_LISTS = ("layers", "layer", "blocks", "block", "h")

RECURRENT = ("Mamba", "DeltaNet", "ShortConv", "RecurrentBlock")
"""Words in the names of modules that are no attention, and take long to run."""

Function = Callable[..., Any]


class AttendedError(Exception):
    """The layer has reached its attention."""


@dataclass(frozen=True, slots=True)
class Mask:
    """Which keys a query sees."""

    kind: str
    size: int | None = None
    """Width of the window or the chunk."""


@dataclass(slots=True)
class LayerFacts:
    """What one layer did."""

    rotated: bool = False
    attended: bool = False
    tables: list[Tensor] = field(default_factory=list)
    mask: Mask | None = None
    function: str = ""
    """The name of the function that rotates."""
    scale: float | None = None
    """The factor of the scores; None if the attention takes none."""
    query_width: int = 0
    failed: bool = False
    rotation_fails: bool = False
    """The rotation of the class raises an error: its tables do not fit its heads."""


def build(
    model_class: type[PreTrainedModel], config: PreTrainedConfig, module: ModuleType
) -> nn.Module:
    """Return the model without weights, its rotary modules with their frequencies."""
    with ExitStack() as stack:
        for rotary in rotary_classes(module):
            stack.enter_context(patch.object(rotary, "__init__", _on_cpu(rotary.__init__)))
        stack.enter_context(torch.device("meta"))
        stack.enter_context(no_init_weights())
        model: nn.Module = model_class(config).train(False)
        return model


def rotary_classes(module: ModuleType) -> list[type[nn.Module]]:
    """Return the classes of a module that make cosines and sines."""
    return [
        value
        for name, value in vars(module).items()
        if inspect.isclass(value)
        and issubclass(value, nn.Module)
        and any(word in name for word in ("Rotary", "Rope", "RoPE"))
        and not any(word in name for word in ("Attention", "Layer", "Model"))
    ]


def rotary_modules(model: nn.Module, module: ModuleType) -> list[nn.Module]:
    """Return the rotary modules of a model."""
    classes = tuple(rotary_classes(module))
    return [part for part in model.modules() if isinstance(part, classes)]


def run(model: nn.Module, module: ModuleType, num_layers: int) -> list[LayerFacts]:
    """Return what each layer does with a few tokens; () if the model does not run this way."""
    best: list[LayerFacts] = []
    for outputs in (lambda h: h, lambda h: (h,), lambda h: (h, None), lambda h: (h, None, None)):
        facts = [LayerFacts() for _ in layer_list(model, num_layers)]
        try:
            with _recording(model, module, facts, outputs):
                model(**_inputs(model))
        except Exception:  # another form of a layer's result may do
            continue
        if not any(fact.failed for fact in facts):
            return facts
        best = best or facts
    return best


def layer_list(model: nn.Module, num_layers: int) -> list[nn.Module]:
    """Return the layers of a model."""
    lists = [
        part
        for name, part in model.named_modules()
        if isinstance(part, nn.ModuleList) and name.rsplit(".", 1)[-1] in LAYER_LISTS
    ]
    return list(next((part for part in lists if len(part) == num_layers), []))


def _inputs(model: nn.Module) -> dict[str, Any]:
    keys = inspect.signature(model.forward).parameters
    names = ("input_ids", "inputs_embeds", "hidden_states")
    name = next((name for name in names if name in keys), "input_ids")
    shape: tuple[int, ...] = (1, TOKENS)
    if name != "input_ids":
        config: Any = model.config
        shape = (*shape, config.hidden_size)
    dtype = torch.long if name == "input_ids" else torch.float32
    ids = torch.zeros(shape, dtype=dtype, device="meta")
    return {name: ids, **({"use_cache": False} if "use_cache" in keys else {})}


@contextmanager
def _recording(
    model: nn.Module, module: ModuleType, facts: list[LayerFacts], outputs: Function
) -> Iterator[None]:
    """Replace rotations, masks and attentions by functions that record their arguments."""
    current: list[LayerFacts] = []

    def attend(*args: Any, **kwargs: Any) -> Any:
        if not current:
            raise AttendedError
        mask = kwargs.get("attention_mask", args[4] if len(args) > 4 else None)
        current[-1].attended = True
        current[-1].mask = mask if isinstance(mask, Mask) else None
        scale = kwargs.get("scaling", args[5] if len(args) > 5 else None)
        current[-1].scale = scale if isinstance(scale, float) else None
        current[-1].query_width = (args[1] if len(args) > 1 else kwargs["query"]).shape[-1]
        raise AttendedError

    with ExitStack() as stack:

        def replace(owner: Any, name: str, value: Any) -> None:
            stack.enter_context(patch.object(owner, name, value))

        for name, value in list(vars(module).items()):
            if not inspect.isfunction(value):
                continue
            if "apply" in name and ("rot" in name or "rope" in name):
                replace(module, name, _rotation(value, current))
            elif name.startswith("create_") and "mask" in name:
                replace(module, name, _mask_maker(name))
            elif name == "eager_attention_forward":
                replace(module, name, attend)
        for rotary in rotary_modules(model, module):
            replace(rotary, "forward", _with_real_positions(rotary.forward))
        for layer, fact in zip(layer_list(model, len(facts)), facts, strict=True):
            forward = layer.forward if _has_attention(layer) else _nothing(layer.forward)
            replace(layer, "forward", _recorded(forward, fact, current, outputs))
        yield


def _has_attention(layer: nn.Module) -> bool:
    """Return whether a layer has more than a recurrence or a convolution."""
    names = [type(part).__name__ for part in layer.modules()]
    return any("Att" in name for name in names) or not any(
        word in name for name in names for word in RECURRENT
    )


def _nothing(forward: Function) -> Function:
    names = list(inspect.signature(forward).parameters)

    def passed(*args: Any, **kwargs: Any) -> Any:
        return {**dict(zip(names, args, strict=False)), **kwargs}["hidden_states"]

    return passed


def _on_cpu(init: Function) -> Function:
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> None:
        with torch.device("cpu"):
            init(self, *args, **kwargs)

    return wrapped


def _with_real_positions(forward: Function) -> Function:
    def real(value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.is_meta:
            return value
        if value.is_floating_point():
            return torch.zeros(value.shape)
        return torch.arange(value.shape[-1]).expand(value.shape)

    def computed(*args: Any, **kwargs: Any) -> Any:
        with torch.device("cpu"):
            return forward(*map(real, args), **{key: real(x) for key, x in kwargs.items()})

    return computed


def _rotation(function: Function, current: list[LayerFacts]) -> Function:
    names = list(inspect.signature(function).parameters)

    def rotated(*args: Any, **kwargs: Any) -> Any:
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        if current:
            current[-1].rotated = True
            tables = [x for x in given.values() if isinstance(x, Tensor) and not x.is_meta]
            current[-1].tables += tables
            current[-1].function = function.__name__
            try:
                function(**{name: _meta(value) for name, value in given.items()})
            except Exception:  # so would the model
                current[-1].rotation_fails = True
        first, second = given[names[0]], given.get(names[1])
        is_pair = isinstance(second, Tensor) and second.is_meta
        return (first, second) if is_pair or names[1] in ("k", "xk", "key") else first

    return rotated


def _meta(value: Any) -> Any:
    return value.to("meta") if isinstance(value, Tensor) else value


def _mask_maker(name: str) -> Function:
    kind = name.removeprefix("create_").removesuffix("_mask")

    def make(config: Any, *_: Any, **__: Any) -> Any:
        if "recurrent" in kind:
            return None
        if "sliding" in kind:
            if not config.sliding_window:
                raise ValueError("no window, which transformers refuses")
            return Mask(kind, config.sliding_window)
        return Mask(kind, config.attention_chunk_size) if "chunk" in kind else Mask(kind)

    return make


def _recorded(
    forward: Function, fact: LayerFacts, current: list[LayerFacts], outputs: Function
) -> Function:
    names = list(inspect.signature(forward).parameters)

    def recorded(*args: Any, **kwargs: Any) -> Any:
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        current.append(fact)
        try:
            forward(*args, **kwargs)
        except AttendedError:
            pass
        except Exception:  # what came before is recorded
            fact.failed = True
        finally:
            current.pop()
        if fact.mask is None and isinstance(given.get("attention_mask"), Mask):
            fact.mask = given["attention_mask"]
        return outputs(given.get("hidden_states", args[0] if args else None))

    return recorded

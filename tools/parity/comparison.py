"""What `rope_core.hf.resolve` says of a config.json, compared with the class of transformers."""

import copy
import json
import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from rope_core.angles import angles_at
from rope_core.config import RopeConfig
from rope_core.errors import ConfigError
from rope_core.hf import Resolved, resolve
from tools.parity import model_facts
from tools.parity.classes import Entry
from tools.parity.model_facts import TOKENS, LayerFacts
from tools.parity.rotary_modules import layer_types

INTERLEAVE = "apply_rotary_pos_emb_interleave"


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not as in the class."""

    model_type: str
    kind: str
    layer: int | None
    expected: str
    got: str
    config: str

    def __str__(self) -> str:
        where = "" if self.layer is None else f" of layer {self.layer}"
        return f"{self.model_type}: {self.kind}{where}: {self.got}, not {self.expected}"


@dataclass(frozen=True, slots=True)
class Result:
    """How one config compares."""

    status: str
    """`layers`: layer by layer; `frequencies`: those of the rotary module alone; `types`: the layer
    types alone; `refused`: the class refuses the config; `fails`: its model does not run."""
    differences: tuple[Difference, ...] = ()


def plain(config: PreTrainedConfig) -> dict[str, Any]:
    """Return what a class writes, as a file has it."""
    written: dict[str, Any] = json.loads(json.dumps(config.to_dict(), default=str))
    return written


def compare(entry: Entry, file: dict[str, Any]) -> Result:
    """Compare one config.json."""
    file = {"model_type": entry.model_type, **file}
    given = json.dumps(file, sort_keys=True)
    try:
        config = entry.config_class.from_dict(copy.deepcopy(file))
    except Exception:  # the class refuses it
        _refusal(file)
        return Result("refused")
    config._attn_implementation = "eager"
    types = layer_types(config)
    total = len(types) if types else getattr(config, "num_hidden_layers", None) or 0
    facts, model = _facts(entry, config, total)
    if (model is not None, bool(facts)) < _default_facts(entry):
        _refusal(file)
        return Result("fails")
    found: list[Difference] = []

    def differ(kind: str, layer: int | None, expected: Any, got: Any) -> None:
        found.append(Difference(entry.model_type, kind, layer, str(expected), str(got), given))

    if not facts:
        return _without_layers(entry, config, file, model, types, found, differ)
    is_two_sided = hasattr(entry.module, "_bidirectional_window_overlay") and bool(
        getattr(config, "use_bidirectional_attention", None) in (True, "all")
    )
    for layer, fact in enumerate(facts):
        if fact.rotation_fails:
            return Result("fails", tuple(found))
        try:
            ours = resolve(file, layer=layer)
        except ConfigError as refused:
            differ("refused", layer, "a reading", refused)
            break
        if types and layer < len(types) and ours.layer_type != types[layer]:
            differ("layer type", layer, types[layer], ours.layer_type)
        _compare_layer(entry, fact, ours, layer, is_two_sided, differ)
    return Result("layers", tuple(found))


def _refusal(file: dict[str, Any], **options: Any) -> Resolved | ConfigError:
    try:
        return resolve(file, **options)
    except ConfigError as refused:
        return refused


def _facts(
    entry: Entry, config: PreTrainedConfig, total: int
) -> tuple[list[LayerFacts], nn.Module | None]:
    if entry.model_class is None or entry.module is None:
        return [], None
    try:
        model = model_facts.build(entry.model_class, config, entry.module)
    except Exception:  # the model has no weights of such shapes
        return [], None
    return model_facts.run(model, entry.module, total), model


@cache
def _default_facts(entry: Entry) -> tuple[bool, bool]:
    """Return whether the model of a short config is built, and whether it runs."""
    try:
        config = entry.config_class.from_dict({"num_hidden_layers": 4})
    except Exception:  # no default config
        return False, False
    config._attn_implementation = "eager"
    facts, model = _facts(entry, config, getattr(config, "num_hidden_layers", None) or 0)
    return model is not None, bool(facts)


def _without_layers(
    entry: Entry,
    config: PreTrainedConfig,
    file: dict[str, Any],
    model: nn.Module | None,
    types: list[str] | None,
    found: list[Difference],
    differ: Any,
) -> Result:
    """Compare layer types and frequencies of a model that does not run without more input."""
    ours = _refusal(file, layer=0 if types else None)
    if isinstance(ours, ConfigError):
        if model is not None:
            differ("refused", None, "a reading", ours)
        return Result("types", tuple(found))
    if types:
        read = {layer: group.layer_type for group in ours.layers for layer in group.layers}
        for layer, name in enumerate(types):
            if read.get(layer) != name:
                differ("layer type", layer, name, read.get(layer))
    tables = _frequencies(entry, config, model)
    if not tables or ours.rope is None or ours.rope.learned:
        return Result("types", tuple(found))
    by_type = {name: _refusal(file, layer_type=name) for name in set(types or ())}
    readings = [ours, *by_type.values()] if types else [ours]
    for reading in readings:
        rope = None if isinstance(reading, ConfigError) else reading.rope
        if rope is not None and not any(_same(rope.inv_freq.float(), t) for t in tables):
            differ("frequencies", None, [_brief(t) for t in tables], _brief(rope.inv_freq))
    return Result("frequencies", tuple(found))


def _frequencies(entry: Entry, config: PreTrainedConfig, model: nn.Module | None) -> list[Tensor]:
    assert entry.module is not None or model is None
    modules = (
        []
        if model is None or entry.module is None
        else model_facts.rotary_modules(model, entry.module)
    )
    if not modules and entry.module is not None:
        for rotary in model_facts.rotary_classes(entry.module):
            try:
                modules.append(rotary(config))
            except Exception:  # a rotary class of another part
                continue
    return [
        buffer.float()
        for module in modules
        for name, buffer in module.named_buffers()
        if name.endswith("inv_freq") and "original" not in name and not buffer.is_meta
    ]


def _compare_layer(
    entry: Entry, fact: LayerFacts, ours: Resolved, layer: int, is_two_sided: bool, differ: Any
) -> None:
    rotates = ours.rope is not None
    if fact.rotated != rotates and (fact.rotated or fact.attended or not fact.failed):
        differ("rotates", layer, fact.rotated, f"{rotates} ({ours.nope})")
        return
    if fact.attended and not ours.attends:
        differ("attends", layer, fact.attended, ours.attends)
    if fact.rotated and ours.rope is not None and hasattr(entry.module, INTERLEAVE):
        expected_name, got_name = fact.function == INTERLEAVE, ours.rope.layout != "half"
        if expected_name != got_name and hasattr(entry.module, "apply_rotary_pos_emb"):
            differ("layout", layer, fact.function, ours.rope.layout)
    if fact.rotated and fact.tables and ours.rope is not None and not ours.rope.learned:
        tokens = max(fact.tables[0].shape[-2], TOKENS)
        expected, got = _values(fact.tables), _values(_tables(ours.rope, tokens))
        angles = _values([torch.outer(torch.arange(tokens), ours.rope.inv_freq.float())])
        if not (_same(expected, got) or _same(expected, angles)):  # CLVP passes angles on
            differ("table", layer, _brief(expected), _brief(got))
        width = max(t.shape[-1] for t in fact.tables)
        if width not in (ours.rope.rotary_dim, ours.rope.rotary_dim // 2):
            differ("rotary width", layer, width, ours.rope.rotary_dim)
    if fact.scale is not None:
        own_scale = ours.attention.scale
        scale = fact.query_width**-0.5 if own_scale is None else own_scale
        if not math.isclose(scale, fact.scale, rel_tol=1e-9):
            differ("softmax scale", layer, fact.scale, scale)
    if fact.mask is not None and (fact.attended or fact.rotated):
        expected_mask, got_mask = _mask_of_class(fact, is_two_sided), _mask(ours)
        if expected_mask != got_mask:
            differ("mask", layer, expected_mask, got_mask)


def _tables(rope: RopeConfig, tokens: int) -> list[Tensor]:
    rope = rope.for_length(tokens)
    positions = torch.arange(tokens)
    if rope.num_axes > 1:
        positions = positions.expand(rope.num_axes, tokens)
    angles = angles_at(positions, rope)
    return [angles.cos, angles.sin]


def _values(tables: list[Tensor]) -> Tensor:
    """Return the absolute values of all cosines and sines, without their order."""
    flat = [torch.view_as_real(t) if t.is_complex() else t for t in tables]
    values: Tensor = torch.unique(torch.cat([t.flatten().float().abs() for t in flat]))
    return values


def _same(a: Tensor, b: Tensor) -> bool:
    return torch.equal(torch.unique(a), torch.unique(b))


def _brief(values: Tensor) -> str:
    values = values.flatten()
    return f"{len(values)} values {[float(f'{x:.6g}') for x in values[:3].tolist()]}.."


def _mask_of_class(fact: LayerFacts, is_two_sided: bool) -> tuple[str, int | None]:
    assert fact.mask is not None
    kind, size = fact.mask.kind.removeprefix("reference_"), fact.mask.size
    if is_two_sided and kind == "causal":
        return "bidirectional", None
    if is_two_sided and kind == "sliding_window_causal" and size is not None:
        return "bidirectional_sliding_window", size - 1  # the class sets a window of one side
    return kind, size


def _mask(ours: Resolved) -> tuple[str, int | None]:
    attention = ours.attention
    if attention.chunk is not None:
        return "chunked_causal", attention.chunk
    if not attention.causal:
        if attention.window is None:
            return "bidirectional", None
        return "bidirectional_sliding_window", attention.window_ahead
    if attention.window is None:
        return "causal", None
    return "sliding_window_causal", attention.window

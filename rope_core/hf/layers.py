"""Layers: which type each is of, and which of them do not rotate."""

from collections.abc import Mapping
from dataclasses import dataclass

from rope_core.errors import ConfigError
from rope_core.hf.config_reader import GIVEN, Reader, brief
from rope_core.hf.layer_types import FULL, SLIDING, STACKS, no_rope_layers

MAX_LAYERS = 10_000
"""Most layers a config may claim."""

OLD_NAMES = {
    "attention": "full_attention",
    "mamba": "linear_attention",
    "deepseek_sparse_attention": "indexed_attention",
    "qwen_sparse_attention": "indexed_attention",
}
"""Names of layer types that transformers reads as another."""

NO_ATTENTION = ("linear_attention", "conv", "recurrent")
"""Types of layers that have no queries and keys to rotate."""


@dataclass(frozen=True, slots=True)
class Layers:
    """The layers of one type, that rotate alike or not at all."""

    layer_type: str | None
    layers: tuple[int, ...]
    """Their indices."""

    nope: str | None
    """Why they, or the first of them, do not rotate; None where they do."""


def all_layers(reader: Reader) -> tuple[Layers, ...]:
    """Return every layer of the model, by type and by whether it rotates; () if unknown."""
    types = layer_types(reader)
    total = len(types) if types else count(reader)
    found: dict[tuple[str | None, bool], tuple[str | None, list[int]]] = {}
    for layer in range(total or 0):
        kind = types[layer] if types else None
        why = nope(reader, layer, kind)
        found.setdefault((kind, why is None), (why, []))[1].append(layer)
    return tuple(Layers(kind, tuple(at), why) for (kind, _), (why, at) in found.items())


def layer_type(reader: Reader, named: str | None) -> str | None:
    """Return the type of the layer asked for, given its index or the type; None if neither is.

    Raises:
        ConfigError: the index is outside the model, or index and name disagree.
    """
    layer = reader.layer
    if layer is None:
        _check_known(reader, named)
        return named
    types = layer_types(reader)
    total = len(types) if types else count(reader)
    if layer < 0 or (total is not None and layer >= total):
        expected = "0 or more" if total is None else f"in [0, {total - 1}]"
        raise ConfigError("layer", expected, layer)
    if types is None:
        return named
    if named is not None and named != types[layer]:
        raise ConfigError("layer_type", f"{types[layer]!r}, as layer {layer} is", brief(named))
    return types[layer]


def _check_known(reader: Reader, named: str | None) -> None:
    """A layer type must be one that this model, or its family, can have."""
    if named is None:
        return
    family = reader.family
    known = {*family.types, *family.cycle, *family.labels, *(layer_types(reader) or ())}
    known |= {item for item in (family.first, family.last) if item}
    known = known or {"full_attention", "sliding_attention"}
    if named not in known:
        raise ConfigError("layer_type", f"one of {sorted(known)}", brief(named))


def count(reader: Reader) -> int | None:
    """Return the number of layers, None if nothing says it."""
    if reader.get("num_hidden_layers") is None:
        return None
    total = reader.size("num_hidden_layers")
    if total > MAX_LAYERS:
        raise ConfigError(reader.name("num_hidden_layers"), f"at most {MAX_LAYERS}", total)
    return total


def nope(reader: Reader, layer: int | None, named: str | None) -> str | None:
    """Return why a layer does not rotate, None where it does.

    A rule by layer can tell nothing where no layer is asked for: then it does.
    """
    if named in NO_ATTENTION:
        return f"{named} has no queries and keys"
    if named is not None and _is_null(reader, named):
        return f"rope parameters of {named} are null"
    family = reader.family
    match family.nope:
        case "no_rope_layers" if layer is not None:
            return no_rope_layers(reader, layer)
        case "full_attention" if named == FULL:
            forced = reader.given("force_rope")
            return None if forced else "full-attention layers of this family rotate nothing"
        case "full_attention_beside_sliding" if named == FULL:
            alone = reader.is_null("sliding_window")
            return None if alone else "full-attention layers beside sliding ones rotate nothing"
        case "layer_rope_theta" | "layer_rope_theta_from_last" if layer is not None:
            bases = reader.numbers("layer_rope_theta")
            if bases is not None and layer < len(bases):
                return None if bases[layer] else f"layer_rope_theta[{layer}] is {bases[layer]}"
            last = (count(reader) or 0) - 1
            skipped = family.nope.endswith("last") and (last - layer) % 4 == 0
            return "every 4th layer, from the last, rotates nothing" if skipped else None
        case "position_embedding_type":
            kind = reader.get("position_embedding_type")
            return None if kind == "rope" else f"position_embedding_type is {brief(kind)}, not rope"
        case "use_mem_rope":
            return None if reader.get("use_mem_rope") else "use_mem_rope is false"
    return None


def _is_null(reader: Reader, named: str) -> bool:
    """Whether there are no rope parameters for a layer type, on purpose."""
    labels = reader.family.labels
    label = labels.get(named, labels.get("", named))
    for key in ("rope_scaling", "rope_parameters"):
        block = reader.config.get(key)
        if isinstance(block, Mapping) and label in block:
            return block[label] is None
    rule = reader.family.types.get(label)
    return rule is not None and rule["default"] is None


def layer_types(reader: Reader) -> list[str] | None:
    """Return the type of each layer, as the file says or the class derives; None if neither."""
    given = reader.given("layer_types")
    if given is not None:
        texts = isinstance(given, list) and all(isinstance(item, str) for item in given)
        if not given or not texts:
            raise ConfigError(reader.name("layer_types"), "a list of texts", brief(given))
        if len(given) > MAX_LAYERS:
            raise ConfigError(reader.name("layer_types"), f"at most {MAX_LAYERS}", len(given))
        reader.provenance["layer_types"] = GIVEN
        total = reader.given("num_hidden_layers")
        if isinstance(total, int) and total != len(given):
            reader.warn(f"layer_types has {len(given)} layers, num_hidden_layers is {total}")
        return [OLD_NAMES.get(item, item) for item in map(str, given)]
    family = reader.family
    if not family.stack and not family.cycle:
        return None
    total = count(reader)
    if total is None:
        return None
    types = STACKS[family.stack](reader, total) if family.stack else _cycle(reader, total)
    types[0] = family.first or types[0]
    types[-1] = family.last or types[-1]
    return types


def _cycle(reader: Reader, total: int) -> list[str]:
    """Return the family's cycle of types, in the length that the file may say."""
    cycle = list(reader.family.cycle)
    key = reader.family.period
    period = reader.given(key) if key else None
    if isinstance(period, str):  # EXAONE's "LLLG": local and global
        if not period or set(period) - set("LG"):
            raise ConfigError(key or "", "a text of L and G, or a whole number", brief(period))
        cycle = [SLIDING if letter == "L" else FULL for letter in period]
    elif period is not None:
        length = min(reader.size(key or ""), MAX_LAYERS)
        if cycle[0] == FULL:  # the first of each period is full
            cycle = [FULL] + [SLIDING] * (length - 1)
        else:
            cycle = [cycle[0]] * (length - 1) + [cycle[-1]]
    return [cycle[layer % len(cycle)] for layer in range(total)]

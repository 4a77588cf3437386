"""`rope-service inspect`: what a config does, as a sentence and a table of its frequencies."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson
from rich.text import Text

from rope_core.sentences import PER_LAYER_KEYS
from service.cli.errors import InputError
from service.cli.frequency_rows import FrequencyRow, chosen_rows, frequency_rows
from service.cli.frequency_table import frequency_table
from service.cli.highlight import highlight
from service.cli.output import console, count_text, new_table, number_text, value_text
from service.cli.pipe import write
from service.cli.rope_argument import RopeArgument
from service.cli.service_calls import Caller, json_text
from service.wire import Message

PATH = "/v1/resolve"

MAX_TABLES = 3
"""Kinds of layers with a table; `--all` shows each."""


@dataclass(frozen=True, slots=True)
class LayerKind:
    """The layers that rotate alike, and the answer for one of them."""

    name: str | None
    """None if all layers are alike, or the user named one."""

    layers: Sequence[int]
    answer: Message

    @property
    def values(self) -> Mapping[str, Any]:
        """The parameters of the answer."""
        return self.answer.params.values


def answer_json(caller: Caller, rope: RopeArgument, options: Mapping[str, Any]) -> str:
    """Return what the route answers, as JSON.

    Raises:
        InputError: the rope is refused.
    """
    return json_text(caller.call(PATH, {}, {"rope": rope.with_options(options)}))


def layer_kinds(
    caller: Caller, rope: RopeArgument, options: Mapping[str, Any]
) -> Sequence[LayerKind]:
    """Resolve a rope; one layer of each kind if layers differ and the options name none.

    Args:
        caller: what resolves.
        rope: the rope.
        options: of the rope, such as `layer`.

    Raises:
        InputError: the rope is refused.
    """
    is_named = options.get("layer") is not None or options.get("layer_type") is not None
    answer = refusal = None
    try:
        answer = caller.call(PATH, {}, {"rope": rope.with_options(options)})
    except InputError as error:
        if not rope.is_of_model or is_named:
            raise
        refusal = error
    if answer is not None:
        groups = answer.params.values.get("layers", ())
        if is_named or not groups:
            return [LayerKind(None, [], answer)]
    kinds = _kinds(caller, rope, options, refusal)
    if len(kinds) == 1 and answer is not None:
        return [LayerKind(None, kinds[0].layers, answer)]
    return kinds


def _kinds(
    caller: Caller, rope: RopeArgument, options: Mapping[str, Any], refusal: InputError | None
) -> Sequence[LayerKind]:
    """Resolve the layers of a model, and return those that rotate alike together.

    Args:
        caller: what resolves.
        rope: the rope of a model.
        options: of the rope.
        refusal: why it is refused without a layer; None if it is not.

    Raises:
        InputError: the rope is refused with a layer as well.
    """

    def resolve(layer: int) -> Message:
        one = rope.with_options({**options, "layer": layer})
        return caller.call(PATH, {}, {"rope": one})

    try:
        first = resolve(0).params.values
    except InputError as error:
        raise refusal or error from None
    is_per_layer = not {*PER_LAYER_KEYS}.isdisjoint(first["keys_read"])
    kinds: dict[bytes, LayerKind] = {}
    for group in first["layers"]:
        layers = group["layers"]
        for alike in [[layer] for layer in layers] if is_per_layer else [layers]:
            answer = resolve(alike[0])
            key = orjson.dumps(answer.params.values.get("rope"), default=dict)
            name = group["layer_type"] or ("rotation" if group["nope"] is None else "no rotation")
            kind = kinds.get(key, LayerKind(name, [], answer))
            names = dict.fromkeys([*(kind.name or "").split(", "), name])
            kinds[key] = replace(kind, name=", ".join(names), layers=[*kind.layers, *alike])
    return [*kinds.values()]


def print_inspection(title: str, kinds: Sequence[LayerKind], *, show_all: bool) -> None:
    """Print what a config does.

    Args:
        title: name of the config.
        kinds: its kinds of layers.
        show_all: whether to print all pairs, all kinds and the source of each value.
    """
    out = console()
    out.print(_header(title, kinds))
    num_shown = num_pairs = 0
    for index, kind in enumerate(kinds):
        if kind.name is not None:
            out.print()
            out.print(Text.assemble((kind.name, "bold"), f"  {_layers_text(kind.layers)}"))
        out.print(highlight(kind.values["summary"]))
        rows = frequency_rows(kind.answer)
        if not rows or (index >= MAX_TABLES and not show_all):
            continue
        shown = rows if show_all else chosen_rows(rows)
        num_shown, num_pairs = num_shown + len(shown), num_pairs + len(rows)
        out.print()
        out.print(frequency_table(shown, kind.values["lengths"]["trained"], out))
    for kind in kinds if show_all else kinds[:1]:
        _print_provenance(kind, as_table=show_all)
    for warning in _warnings(kinds):
        out.print(Text.assemble(("warning: ", "bad"), warning))
    if out.is_terminal:
        rest = "; --all shows the rest" if num_shown < num_pairs else ""
        pairs = f"{num_shown} of {num_pairs} pairs{rest} · " if num_pairs else ""
        out.print(f"{pairs}--json · --csv · -o out.svg · --against other.json", style="label")


def write_csv(kinds: Sequence[LayerKind]) -> None:
    """Write a line for each pair to standard output."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ("layers", "pair", "axis", "frequency", "positions_per_turn", "divisor", "turns", "band")
    )
    for kind in kinds:
        layers = " ".join(map(str, kind.layers))
        for row in frequency_rows(kind.answer):
            writer.writerow(_csv_line(layers, row))
    write(text.getvalue())


def _csv_line(layers: str, row: FrequencyRow) -> Sequence[object]:
    positions = row.positions_per_turn if row.frequency else None
    numbers = (row.frequency, positions, row.divisor, row.turns)
    return (layers, row.pair, row.axis, *numbers, row.band)


def _header(title: str, kinds: Sequence[LayerKind]) -> Text:
    values = kinds[0].values
    parts = [values["model_type"]] if "model_type" in values else []
    rope = values.get("rope")
    if rope is not None and len(kinds) == 1:
        parts += [rope["rope_type"]]
        parts += [f"theta {number_text(rope['theta'])}"] if "theta" in rope else []
        parts += [f"head_dim {rope['head_dim']}"]
        if rope["rotary_dim"] != rope["head_dim"]:
            parts += [f"rotary_dim {rope['rotary_dim']}"]
        parts += [f"layout {rope['layout']}"]
    total = sum(len(kind.layers) for kind in kinds)
    if total:
        names = ", ".join(f"{len(kind.layers)} {kind.name}" for kind in kinds if kind.name)
        alike = f"{total} layers alike" if rope is not None else f"{total} layers"
        parts += [f"{total} layers: {names}" if names else alike]
    return Text.assemble((title, "bold"), "  ", highlight(" · ".join(parts)))


def _layers_text(layers: Sequence[int]) -> str:
    """Write the indices of layers in few words: `layers 0, 1, 2, 3, ... 61`."""
    if len(layers) == 1:
        return f"layer {layers[0]}"
    layers = sorted(layers)
    shown = [*layers[:6], *([] if len(layers) <= 7 else ["…"]), *layers[6:][-1:]]
    return f"{count_text(len(layers))} layers: {', '.join(map(str, shown))}"


def _print_provenance(kind: LayerKind, *, as_table: bool) -> None:
    """Print where each value comes from: a table, or one line for each kind of source."""
    provenance: Mapping[str, str] = kind.values["provenance"]
    if not provenance:
        return
    out = console()
    out.print()
    if not as_table:
        names: dict[str, list[str]] = {}
        for name, source in provenance.items():
            names.setdefault(source, []).append(name)
        for source, listed in names.items():
            out.print(f"{source}: {', '.join(listed)}", style="label")
        return
    why: Mapping[str, str] = kind.values["why"]
    known = {**(kind.values.get("rope") or {}), **(kind.values.get("parameters") or {})}
    headings = ("parameter", "value", "from", "key or formula")
    table = new_table(*headings, left=headings)
    for name, source in provenance.items():
        table.add_row(name, value_text(known.get(name)), source, why.get(name, ""))
    out.print(table)


def _warnings(kinds: Sequence[LayerKind]) -> Sequence[str]:
    warnings = [text for kind in kinds for text in kind.values.get("warnings", ())]
    return [*dict.fromkeys(warnings)]

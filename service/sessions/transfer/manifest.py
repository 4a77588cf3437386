"""The header of an import: configuration, lengths and tensors, checked before any data."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from rope_core import ConfigError, ShapeError
from rope_core.kvcache.transfer.digest import rope_digest
from service.endpoints.rope_resolver import RopeResolver
from service.errors import BadMessage, MissingTensor, UnknownName, printable
from service.sessions.creation.configuration import Configuration, configure
from service.sessions.creation.session_params import read_session_params
from service.sessions.lifetime.quotas import check_max_tokens, check_rows
from service.sessions.transfer.exporting import FORMAT_VERSION
from service.wire.safetensors_codec import Entry, Header

_CONFIGURATION = ("groups", "dtype", "kv_dtype", "batch", "max_tokens")

_NUMBER = r"(0|[1-9][0-9]{0,3})"
_NUMBERS = re.compile(rf"(positions|segments)\.{_NUMBER}")
_HEADS = re.compile(rf"([kv])\.{_NUMBER}\.{_NUMBER}")

MAX_NUMBER = 2**62


@dataclass(frozen=True, slots=True)
class HeadsEntry:
    """`k.{layer}.{row}` or `v.{layer}.{row}` of an import."""

    layer: int
    row: int
    is_keys: bool
    num_kept: int
    """Tokens that it has."""
    width: int
    entry: Entry


@dataclass(frozen=True, slots=True)
class Manifest:
    """A checked header."""

    configuration: Configuration
    max_tokens: int | None
    lengths: Sequence[int]
    """Of each row."""
    starts: Sequence[int]
    """Place of the first token of each row."""
    stored_segments: Sequence[Sequence[tuple[int, ...]]] | None
    num_kept: Sequence[Sequence[int]]
    """Tokens of each layer, `[B][L]`."""
    numbers: Sequence[Entry]
    """positions and segments, at the beginning of the data."""
    heads: Sequence[HeadsEntry]
    """k and v, in the order of their bytes."""
    numbers_bytes: int
    num_bytes: int
    """Of all tensors."""


def read_manifest(header: Header, resolver: RopeResolver) -> Manifest:
    """Return what a header describes; with many layers it takes some 100 ms.

    Raises:
        ConfigError, ShapeError, UnknownName, MissingTensor, BadMessage: it is no whole export in
            the form `stored`.
    """
    values = header.params.values
    _check_kind(values)
    configuration, max_tokens = _configuration(values, resolver)
    num_layers = configuration.config.num_layers
    lengths, starts, segments = _rows(values, num_layers)
    numbers, heads = _tensors(header, configuration, lengths, starts)
    num_kept = [[0] * num_layers for _ in lengths]
    of_values = [[0] * num_layers for _ in lengths]
    for each in heads:
        (num_kept if each.is_keys else of_values)[each.row][each.layer] = each.num_kept
    if num_kept != of_values:
        raise ShapeError("v", "of as many tokens as k, in each layer and row", "others")
    numbers_bytes = sum(each.num_bytes for each in numbers)
    if any(each.entry.offset < numbers_bytes and each.num_kept for each in heads):
        raise BadMessage("the bytes of positions and segments must come before those of k and v")
    return Manifest(
        *(configuration, max_tokens, lengths, starts, segments, num_kept, numbers, heads),
        *(numbers_bytes, header.tensors.num_bytes),
    )


def _check_kind(values: Mapping[str, Any]) -> None:
    version = values["format_version"]
    if type(version) is not int or version != FORMAT_VERSION:
        raise ConfigError("format_version", str(FORMAT_VERSION), printable(repr(version)))
    if values.get("form") != "stored":
        expected = '"stored": other forms cannot be imported'
        raise ConfigError("form", expected, printable(repr(values.get("form"))))
    if values.get("whole") is not True:
        expected = "true: only an export of all rows, layers and places can be imported"
        raise ConfigError("whole", expected, printable(repr(values.get("whole"))))
    if values.get("rotated") is not True:
        raise ConfigError("rotated", "true", printable(repr(values.get("rotated"))))


def _configuration(
    values: Mapping[str, Any], resolver: RopeResolver
) -> tuple[Configuration, int | None]:
    members = values.get("configuration")
    if not isinstance(members, dict):
        raise ConfigError("configuration", "an object", type(members).__name__)
    for name in members:
        if name not in _CONFIGURATION:
            raise UnknownName("parameter", f"configuration.{name}", [*_CONFIGURATION])
    if "groups" not in members:
        raise ConfigError("configuration.groups", "given", "none")
    params = read_session_params(members)
    check_rows(params.batch)
    check_max_tokens(params.max_tokens)
    configuration = configure(params, resolver)
    config = configuration.config
    if config.kv_dtype != "same" or values.get("kv_dtype") != config.kv_dtype:
        raise ConfigError("kv_dtype", '"same"', printable(repr(values.get("kv_dtype"))))
    digest = rope_digest(config)
    if values.get("rope_digest") != digest:
        expected = f"{digest}, the rotations of the configuration"
        raise ConfigError("rope_digest", expected, printable(repr(values.get("rope_digest"))))
    return configuration, params.max_tokens


def _rows(
    values: Mapping[str, Any], num_layers: int
) -> tuple[list[int], list[int], list[list[tuple[int, ...]]] | None]:
    """Return the lengths, the first places and the stored segments of the rows."""
    lengths = values.get("lengths")
    is_table = isinstance(lengths, list) and len(lengths) == num_layers
    if not is_table or not lengths or not all(map(_is_numbers, lengths)):
        raise ConfigError("lengths", f"a list of numbers for each of {num_layers} layers", "others")
    first = lengths[0]
    if any(each != first for each in lengths):
        raise ConfigError("lengths", "equal in all layers", "others")
    check_rows(len(first), "lengths")
    starts = values.get("start", [0] * len(first))
    if not _is_numbers(starts) or len(starts) != len(first):
        raise ConfigError("start", f"a list of {len(first)} numbers", printable(repr(starts)))
    for start, length in zip(starts, first, strict=True):
        if start > length:
            raise ConfigError("start", f"at most {length}, the length of the row", start)
    segments = values.get("stored_segments")
    if segments is None:
        return first, starts, None
    if not isinstance(segments, list) or len(segments) != len(first):
        raise ConfigError("stored_segments", f"a list of {len(first)} lists", "others")
    rows: list[list[tuple[int, ...]]] = []
    for row in segments:
        if not isinstance(row, list) or not all(isinstance(each, list) for each in row):
            raise ConfigError("stored_segments", "a list of lists for each row", "others")
        rows.append([tuple(each) for each in row])
    return first, starts, rows


def _is_numbers(values: object) -> bool:
    return isinstance(values, list) and all(
        type(value) is int and 0 <= value < MAX_NUMBER for value in values
    )


def _tensors(
    header: Header, configuration: Configuration, lengths: Sequence[int], starts: Sequence[int]
) -> tuple[list[Entry], list[HeadsEntry]]:
    """Return the entries of numbers and of heads, all of which are there.

    Their dtypes are checked, and all shapes but the number of tokens of k and v.
    """
    config = configuration.config
    groups = {layer: group for group in config.groups for layer in group.layers}
    numbers: list[Entry] = []
    heads: list[HeadsEntry] = []
    for entry in header.tensors.entries:
        name = entry.name
        if (match := _NUMBERS.fullmatch(name)) and int(match[2]) < len(lengths):
            _check_dtype(entry, torch.int64)
            row = int(match[2])
            num_tokens = lengths[row] - starts[row]
            expected = [num_tokens] if config.num_axes == 1 else [config.num_axes, num_tokens]
            if match[1] == "segments":
                expected = [entry.shape[0] if entry.shape else 0, 4]
            if [*entry.shape] != expected:
                raise ShapeError(name, str(expected), str([*entry.shape]))
            numbers.append(entry)
        elif (
            (match := _HEADS.fullmatch(name))
            and int(match[2]) in groups
            and int(match[3]) < len(lengths)
        ):
            _check_dtype(entry, config.storage_dtype)
            layer, row = int(match[2]), int(match[3])
            group, is_keys = groups[layer], match[1] == "k"
            width = group.head_dim if is_keys else group.value_dim
            num_kept = entry.shape[1] if len(entry.shape) == 3 else -1
            if [*entry.shape] != [group.num_kv_heads, num_kept, width]:
                expected_text = f"[{group.num_kv_heads}, n, {width}]"
                raise ShapeError(name, expected_text, str([*entry.shape]))
            if num_kept > lengths[row] - starts[row]:
                expected_text = f"of at most {lengths[row] - starts[row]} tokens"
                raise ShapeError(name, expected_text, num_kept)
            heads.append(HeadsEntry(layer, row, is_keys, num_kept, width, entry))
        else:
            examples = ["positions.0", "segments.0", "k.0.0", "v.0.0"]
            raise UnknownName("tensor", name, examples, "tensors are those of layers and rows")
    _check_complete(header, len(groups), len(lengths))
    return numbers, heads


def _check_complete(header: Header, num_layers: int, num_rows: int) -> None:
    """Raise MissingTensor unless there are all tensors; the names of those there are known."""
    if len(header.tensors.entries) == num_rows * (2 + 2 * num_layers):
        return
    names = {entry.name for entry in header.tensors.entries}
    for row in range(num_rows):
        of_row = [f"positions.{row}", f"segments.{row}"]
        of_row += [f"{name}.{layer}.{row}" for layer in range(num_layers) for name in "kv"]
        for name in of_row:
            if name not in names:
                raise MissingTensor(name)


def _check_dtype(entry: Entry, dtype: torch.dtype) -> None:
    if entry.dtype is not dtype:
        raise ShapeError(
            entry.name,
            str(dtype).removeprefix("torch."),
            str(entry.dtype).removeprefix("torch."),
        )

"""`rope-service rotate`: rotate tensors of a safetensors file, in pieces, into another file."""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from service.cli.errors import InputError
from service.cli.progress import progress_of_bytes
from service.cli.rope_argument import RopeArgument
from service.cli.safetensors_file import DTYPES, Entry, Layout, open_file, read_layout, read_tensor
from service.cli.service_calls import Caller
from service.errors import printable
from service.wire.elements import view_as_bytes

PIECE_BYTES = 32 * 2**20
"""Largest piece of a tensor that is rotated at once, if one token is not larger."""

POSITIONS = "positions"
CU_SEQLENS = "cu_seqlens"

ROTATED = ("q", "k")
"""Last parts of the names of the tensors that are rotated by default."""


@dataclass(frozen=True, slots=True)
class Rotation:
    """How to rotate the tensors of a file."""

    rope: RopeArgument
    options: Mapping[str, Any]
    """Of the rope, such as `layer`."""

    inverse: bool = False
    shift: int | None = None
    """By how many positions rotated keys are moved; None to rotate."""


@dataclass(frozen=True, slots=True)
class Job:
    """The rotation of a file, ready to run."""

    source: Path
    target: Path
    layout: Layout
    rotated: frozenset[str]
    """Names of the tensors that are rotated; the others are copied."""

    positions: Tensor | None
    """None counts from 0."""

    path: str
    """The route that rotates a piece."""

    params: Mapping[str, Any]
    """Parameters of its requests."""

    delta: int | None


def prepare(
    source: Path, target: Path, names: Sequence[str], rotation: Rotation, caller: Caller
) -> Job:
    """Read the header and the positions of a file, and choose the tensors to rotate.

    Args:
        source: the file to read.
        target: the file to write; it exists only once all of it is written.
        names: of the tensors to rotate, with * and ? for other characters; by default those
            named `q` or `k`, also behind a dot.
        rotation: how to rotate.
        caller: what rotates.

    Raises:
        InputError: the file cannot be read, has no such tensors, or the rope is refused.
    """
    with open_file(source) as file:
        layout = read_layout(file, str(source))
        entries = layout.entries
        chosen = _choose(entries, names, str(source))
        positions = read_tensor(file, entries[POSITIONS]) if POSITIONS in entries else None
        if positions is None and CU_SEQLENS in entries:
            positions = _positions_of(read_tensor(file, entries[CU_SEQLENS]))
    params: dict[str, Any] = {"rope": _rope(rotation, chosen, positions, caller)}
    path = "/v1/rotate" if rotation.shift is None else "/v1/shift"
    if rotation.inverse:
        params["inverse"] = True
    rotated = frozenset(entry.name for entry in chosen)
    return Job(source, target, layout, rotated, positions, path, params, rotation.shift)


def run(job: Job, caller: Caller) -> None:
    """Write the target of a job, and show the progress.

    Raises:
        InputError: a tensor does not fit, or a file cannot be read or written.
    """
    part = job.target.with_name(f".{job.target.name}.{os.getpid()}.part")
    entries = job.layout.entries.values()
    total = sum(entry.num_bytes for entry in entries)
    try:
        with (
            progress_of_bytes("rotating", total) as advance,
            open_file(job.source) as reader,
            part.open("wb") as writer,
        ):
            writer.write(job.layout.header)
            for entry in entries:
                writer.seek(entry.start)
                is_rotated = entry.name in job.rotated
                for piece in (_rotate if is_rotated else _copy)(job, entry, reader, caller):
                    writer.write(piece)
                    advance(len(piece))
        part.replace(job.target)
    except OSError as error:
        raise InputError(f"cannot write {job.target}: {error.strerror}") from None
    finally:
        part.unlink(missing_ok=True)


def _choose(entries: Mapping[str, Entry], names: Sequence[str], file: str) -> Sequence[Entry]:
    """Return the tensors to rotate."""
    chosen = [
        entry
        for entry in entries.values()
        if any(fnmatchcase(entry.name, name) for name in names)
        or (not names and entry.name.rpartition(".")[2] in ROTATED)
    ]
    if not chosen:
        found = ", ".join(map(printable, list(entries)[:16])) or "none"
        wanted = " or ".join(names or ROTATED)
        raise InputError(f"{file} must have a tensor named {wanted}, got {found}; see --tensor")
    for entry in chosen:
        name, shape = printable(entry.name), list(entry.shape)
        if entry.dtype not in DTYPES or not DTYPES[entry.dtype].is_floating_point:
            raise InputError(f"{name} must be of floating point, got {entry.dtype}")
        if len(shape) not in (3, 4):
            raise InputError(f"{name} must be of shape [T, H, D] or [B, S, H, D], got {shape}")
    return chosen


def _rope(
    rotation: Rotation, chosen: Sequence[Entry], positions: Tensor | None, caller: Caller
) -> Mapping[str, Any] | str:
    """Return the rope of all pieces: frequencies that depend on a length get that of the file."""
    rope = rotation.rope.with_options(rotation.options)
    answer = caller.call("/v1/resolve", {}, {"rope": rope}).params.values
    if "length_dependence" not in answer or (isinstance(rope, Mapping) and "length" in rope):
        return rope
    length = max(entry.shape[-3] for entry in chosen)
    if positions is not None and positions.numel() and bool(positions.isfinite().all()):
        length = max(0, math.ceil(positions.max().item()) + 1)
    return rotation.rope.with_options({**rotation.options, "length": length})


def _copy(job: Job, entry: Entry, reader: BinaryIO, caller: Caller) -> Iterator[bytes]:
    """Read the bytes of a tensor in pieces."""
    reader.seek(entry.start)
    for start in range(0, entry.num_bytes, PIECE_BYTES):
        piece = reader.read(min(entry.num_bytes - start, PIECE_BYTES))
        if not piece:
            raise InputError(f"{job.source} ended while {printable(entry.name)} was read")
        yield piece


def _rotate(job: Job, entry: Entry, reader: BinaryIO, caller: Caller) -> Iterator[memoryview]:
    """Read a tensor in pieces `[T, H, D]` of one row, and rotate each."""
    *rows, num_tokens, num_heads, head_dim = entry.shape
    token_bytes = num_heads * head_dim * DTYPES[entry.dtype].itemsize
    step = max(1, PIECE_BYTES // max(1, token_bytes))
    name = "q" if job.delta is None else "k"
    for row in range(math.prod(rows)):
        for start in range(0, num_tokens, step):
            tokens = slice(start, min(num_tokens, start + step))
            shape = (tokens.stop - start, num_heads, head_dim)
            first = (row * num_tokens + start) * num_heads * head_dim
            tensors = {
                name: read_tensor(reader, entry, first=first, shape=shape),
                POSITIONS: _positions(job, entry, row, tokens),
            }
            if job.delta is not None:
                tensors["delta"] = torch.tensor(job.delta)
            try:
                answer = caller.call(job.path, tensors, job.params)
            except InputError as error:
                raise InputError(f"{printable(entry.name)}: {error}") from None
            yield view_as_bytes(answer.tensors[name].contiguous())


def _positions(job: Job, entry: Entry, row: int, tokens: slice) -> Tensor:
    """Return the positions of a piece: `[T]`, or `[A, T]` of several axes."""
    positions = job.positions
    if positions is None:
        return torch.arange(tokens.start, tokens.stop)
    *rows, num_tokens = entry.shape[:-2]
    if positions.shape[-1:] != (num_tokens,):
        expected = f"as long as the {num_tokens} tokens of {printable(entry.name)}"
        raise InputError(f"{POSITIONS} must be {expected}, got the shape {list(positions.shape)}")
    if positions.ndim > 1 and [*positions.shape[-2:-1]] == rows:
        positions = positions[..., row, :]
    return positions[..., tokens].contiguous()


def _positions_of(cu_seqlens: Tensor) -> Tensor:
    """Return the positions of packed sequences, each from 0 on."""
    starts = cu_seqlens.tolist() if cu_seqlens.ndim == 1 else []
    if starts[:1] != [0] or starts != sorted(starts):
        raise InputError(f"{CU_SEQLENS} must begin with 0 and not decrease")
    first = torch.repeat_interleave(cu_seqlens[:-1], cu_seqlens.diff())
    return torch.arange(len(first)) - first

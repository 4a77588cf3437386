"""Attention as one: heads become packed tokens, and `cu_seqlens` tell all sequences apart.

`cu_seqlens` go to the device, where kernels read them; the host reads `lengths`. A tensor that
tokens do not divide (a mask, sinks) keeps a call out of every pack.
"""

from collections.abc import Hashable, Sequence
from itertools import accumulate, chain

import torch
from torch import Tensor

from rope_core import Attend, Result, RopeConfig, ragged
from rope_core.calls import moved, names_of, tensors_of
from rope_core.rotary import has_axes
from service.batching.packing.device_batch import ConcatInput, Pack

HEADS = ("q", "k", "v")

NUMBERS = ("q_positions", "k_positions", "q_index", "k_index")
"""Tensors of a number for each token of q or k."""

OF_SEQUENCES = ("cu_seqlens_q", "cu_seqlens_k", "lengths")
"""What a pack has of its own."""


def attention_key(call: Attend) -> Hashable | None:
    """Return what attentions of one pack have in common, None for one that is in none."""
    key: list[Hashable] = [_is_one_sided(call)]
    for name in names_of(call):
        value = getattr(call, name)
        if name in HEADS:
            key += [value.dtype, value.shape[-2:]]
        elif name in NUMBERS:
            key.append(_counts(call, name))
            if _counts(call, name) and value is not None:
                rope = _rope_of(call, name)
                axes = rope is not None and has_axes(getattr(call, name[0]), value, rope)
                key += [value.is_floating_point(), axes]
        elif isinstance(value, Tensor) and name not in OF_SEQUENCES:
            return None
        elif name not in OF_SEQUENCES:
            key.append(value)
    return tuple(key)


class Attentions(Pack):
    """Attentions of one key."""

    def __init__(self, calls: Sequence[Attend]) -> None:
        of_calls = [_lengths(call) for call in calls]
        q, k = (tuple(chain.from_iterable(lengths)) for lengths in zip(*of_calls, strict=True))
        form = moved(calls[0], dict.fromkeys(NUMBERS) | {"lengths": (q, k)})
        joints = _join(calls)
        joints["cu_seqlens_q"] = joints["cu_seqlens_k"] = ConcatInput((_cu_seqlens(q),))
        if not _is_one_sided(calls[0]):
            joints["cu_seqlens_k"] = ConcatInput((_cu_seqlens(k),))
        super().__init__(form, joints, len(calls))
        self._leading = [call.q.shape[:-2] for call in calls]

    def split(self, result: Result) -> list[Result]:
        """Return each call's part of the answer, as views."""
        lengths = [leading.numel() for leading in self._leading]
        tensors = tensors_of(result).items()
        parts = {name: torch.split(tensor, lengths) for name, tensor in tensors}
        return [
            moved(result, {name: _lead(part[i], leading) for name, part in parts.items()})
            for i, leading in enumerate(self._leading)
        ]


def _is_one_sided(call: Attend) -> bool:
    """Tell whether queries and keys are of the same tokens, so that their angles are the same."""
    return (
        call.k_positions is call.q_positions
        and call.cu_seqlens_k is call.cu_seqlens_q
        and call.k.shape[:-2] == call.q.shape[:-2]
    )


def _counts(call: Attend, name: str) -> bool:
    """Tell whether numbers matter to a call; those that are not given are counted."""
    return call.q_index is not None if name.endswith("_index") else call.rope is not None


def _rope_of(call: Attend, name: str) -> RopeConfig | None:
    """Return what says how many axes numbers have."""
    return None if name.endswith("_index") else call.rope


def _join(calls: Sequence[Attend]) -> dict[str, ConcatInput]:
    first = calls[0]
    joints = {name: ConcatInput([_tokens(getattr(c, name)) for c in calls]) for name in HEADS}
    for name in NUMBERS:
        if name == "k_positions" and "q_positions" in joints and _is_one_sided(first):
            joints[name] = joints["q_positions"]
        elif _counts(first, name):
            joints[name] = ConcatInput([_numbers(call, name) for call in calls], -1)
    return joints


def _numbers(call: Attend, name: str) -> Tensor:
    """Return a number for each token, `[T]` or `[A, T]`."""
    heads: Tensor = getattr(call, name[0])
    given: Tensor | None = getattr(call, name)
    if given is not None and heads.ndim == 3:
        return given
    rope = _rope_of(call, name)
    axes = rope is not None and has_axes(heads, given, rope)
    return ragged.token_positions(heads, given, getattr(call, f"cu_seqlens_{name[0]}"), axes)


def _cu_seqlens(lengths: Sequence[int]) -> Tensor:
    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)


def _lengths(call: Attend) -> tuple[Sequence[int], Sequence[int]]:
    if call.lengths is not None:
        return call.lengths
    q, k = call.q, call.k
    rows = q.shape[0] if q.ndim == 4 else 1
    return [q.shape[-3]] * rows, [k.shape[-3]] * rows


def _tokens(heads: Tensor) -> Tensor:
    return heads if heads.ndim == 3 else heads.flatten(0, 1)


def _lead(part: Tensor, leading: torch.Size) -> Tensor:
    return part if len(leading) == 1 else part.view(*leading, *part.shape[1:])

"""Packing of attention: tokens are concatenated, and `cu_seqlens` mark where each sequence begins.

Kernels read `cu_seqlens` on the device; the host reads the same numbers as `lengths`.
"""

from collections.abc import Hashable, Sequence
from itertools import accumulate, chain

import torch
from torch import Tensor

from rope_core import Attend, Result, ragged
from rope_core.angles import has_axes
from rope_core.calls import field_names, tensor_fields, with_fields
from service.batching.packing.device_batch import ConcatInput, PackedCalls

HEAD_FIELDS = ("q", "k", "v")

TOKEN_FIELDS = ("q_positions", "k_positions", "q_index", "k_index")
"""Fields with a number for each token of q or of k."""

SEQUENCE_FIELDS = ("cu_seqlens_q", "cu_seqlens_k", "lengths")
"""Fields that are made new for a pack."""


def attention_key(call: Attend) -> Hashable | None:
    """Return all that decides attention but numbers of tokens and sequences.

    None: the call is never packed, as a tensor of it is not divided by tokens (mask, sinks,
    frequencies).
    """
    key: list[Hashable] = [_is_self_attention(call)]
    for name in field_names(call):
        value = getattr(call, name)
        if name in HEAD_FIELDS:
            key += [value.dtype, value.shape[-2:]]
        elif name in TOKEN_FIELDS:
            key.append(_is_needed(call, name))
            if _is_needed(call, name) and value is not None:
                key += [value.is_floating_point(), _has_axes(call, name)]
        elif name not in SEQUENCE_FIELDS:
            if isinstance(value, Tensor):
                return None
            key.append(value)
    return tuple(key)


def pack_attention(calls: Sequence[Attend]) -> PackedCalls:
    """Return attention calls with equal keys as one, of packed tokens.

    q: `[Tq, H, D]`; k: `[Tk, Hkv, D]`; v: `[Tk, Hkv, Dv]`.
    q_positions, q_index: `[Tq]`, k_positions, k_index: `[Tk]`; positions with axes: `[A, T]`.
    cu_seqlens_q, cu_seqlens_k: int32 `[sequences + 1]`.
    """
    lengths = [_lengths(call) for call in calls]
    q_lengths, k_lengths = (tuple(chain.from_iterable(side)) for side in zip(*lengths, strict=True))
    is_self_attention = _is_self_attention(calls[0])
    inputs = {  # `[B, S, H, D]` as `[B * S, H, D]`
        name: ConcatInput([getattr(call, name).flatten(0, -3) for call in calls])
        for name in HEAD_FIELDS
    }
    for name in TOKEN_FIELDS:
        if name == "k_positions" and "q_positions" in inputs and is_self_attention:
            inputs[name] = inputs["q_positions"]  # so that q and k share their angles
        elif _is_needed(calls[0], name):
            inputs[name] = ConcatInput([_token_numbers(call, name) for call in calls], -1)
    inputs["cu_seqlens_q"] = inputs["cu_seqlens_k"] = ConcatInput((_cu_seqlens(q_lengths),))
    if not is_self_attention:
        inputs["cu_seqlens_k"] = ConcatInput((_cu_seqlens(k_lengths),))
    template = with_fields(
        calls[0], dict.fromkeys(TOKEN_FIELDS) | {"lengths": (q_lengths, k_lengths)}
    )
    leading_shapes = [call.q.shape[:-2] for call in calls]
    num_tokens = [shape.numel() for shape in leading_shapes]

    def split(result: Result) -> list[Result]:
        tensors = tensor_fields(result).items()
        parts = {name: torch.split(whole, num_tokens) for name, whole in tensors}
        return [
            with_fields(
                result, {name: torch.unflatten(part[i], 0, shape) for name, part in parts.items()}
            )
            for i, shape in enumerate(leading_shapes)
        ]

    return PackedCalls(template, inputs, len(calls), split)


def _is_self_attention(call: Attend) -> bool:
    """Tell whether queries and keys are the same tokens at the same positions."""
    return (
        call.rotate in ("both", "none")
        and call.k_positions is call.q_positions
        and call.cu_seqlens_k is call.cu_seqlens_q
        and call.k.shape[:-2] == call.q.shape[:-2]
    )


def _is_needed(call: Attend, name: str) -> bool:
    """Tell whether a call reads a field of TOKEN_FIELDS; if it is None, tokens are counted."""
    if name.endswith("_index"):
        return call.q_index is not None
    return call.rope is not None and call.rotate in ("both", name[0])


def _has_axes(call: Attend, name: str) -> bool:
    """Tell whether the first axis of a field of TOKEN_FIELDS is that of position axes."""
    if name.endswith("_index") or call.rope is None:
        return False
    return has_axes(getattr(call, name[0]), getattr(call, name), call.rope)


def _token_numbers(call: Attend, name: str) -> Tensor:
    """Return a field of TOKEN_FIELDS: a number for each token, `[T]` or `[A, T]`."""
    x, cu_seqlens = getattr(call, name[0]), getattr(call, f"cu_seqlens_{name[0]}")
    return ragged.token_positions(x, getattr(call, name), cu_seqlens, _has_axes(call, name))


def _cu_seqlens(lengths: Sequence[int]) -> Tensor:
    """Return where each sequence begins and the last one ends, int32 `[sequences + 1]`."""
    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)


def _lengths(call: Attend) -> tuple[Sequence[int], Sequence[int]]:
    """Return the number of queries and of keys of each sequence."""
    if call.lengths is not None:
        return call.lengths
    batch_size = call.q.shape[0] if call.q.ndim == 4 else 1
    return [call.q.shape[-3]] * batch_size, [call.k.shape[-3]] * batch_size

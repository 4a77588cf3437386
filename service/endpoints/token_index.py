"""Where tokens are in their sequence, for masks: a tensor's numbers, or those of a progression."""

from collections.abc import Mapping

from torch import Tensor

from rope_core import ConfigError, ragged
from rope_core.checks import check_cu_seqlens, check_heads
from service.endpoints.params import MAX_INDEX, AttentionParams


def read_index(
    tensors: Mapping[str, Tensor],
    params: AttentionParams,
    cu_seqlens: tuple[Tensor | None, Tensor | None],
) -> tuple[Tensor | None, Tensor | None]:
    """Return the index of queries and of keys, None where nothing gives it.

    Raises:
        ConfigError: parameters that a tensor, or the lack of one, contradicts.
        ShapeError: tokens that cannot be counted.
    """
    of_q = _read("q", tensors, cu_seqlens[0], params.q_offset, 1)
    of_k = _read("k", tensors, cu_seqlens[1], params.k_offset, params.k_stride)
    if of_q is None and of_k is not None and "k_index" not in tensors:
        where = "given where k_offset or k_stride is, or the tensor q_index"
        raise ConfigError("q_offset", where, "neither")
    return of_q, of_k


def _read(
    side: str,
    tensors: Mapping[str, Tensor],
    cu_seqlens: Tensor | None,
    offset: int | None,
    stride: int,
) -> Tensor | None:
    tokens, index = tensors[side], tensors.get(f"{side}_index")
    if offset is None and stride == 1:
        return index
    if index is not None:
        name, value = ("stride", stride) if offset is None else ("offset", offset)
        where = f"absent where the tensor {side}_index is given"
        raise ConfigError(f"{side}_{name}", where, value)
    check_heads(side, tokens)
    check_cu_seqlens(f"cu_seqlens_{side}", cu_seqlens, tokens)
    first, steps = offset or 0, max(0, ragged.call_length(tokens, None, cu_seqlens) - 1)
    if first + stride * steps > MAX_INDEX:
        which = f"the index of the last of {side}, {first} + {stride} * {steps},"
        raise ConfigError(which, f"at most {MAX_INDEX}", first + stride * steps)
    return first + stride * ragged.sequence_positions(tokens.shape[-3], cu_seqlens, tokens.device)

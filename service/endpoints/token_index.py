"""The index of each token in its sequence, for masks: from a tensor, or an offset and a stride."""

from collections.abc import Mapping

from torch import Tensor

from rope_core import ConfigError, ragged
from rope_core.checks import check_cu_seqlens, check_heads
from service.endpoints.params import MAX_INDEX, AttentionParams


def token_index(
    tensors: Mapping[str, Tensor],
    params: AttentionParams,
    cu_seqlens_q: Tensor | None,
    cu_seqlens_k: Tensor | None,
) -> tuple[Tensor | None, Tensor | None]:
    """Return the indices of queries and of keys: int64 `[S]`, `[B, S]` or `[T]`, None by default.

    Raises:
        ConfigError: a parameter contradicts a tensor, or the other parameters.
        ShapeError: the tensors of heads or `cu_seqlens` are not valid.
    """
    q_index = _index("q", tensors, cu_seqlens_q, params.q_offset, 1)
    k_index = _index("k", tensors, cu_seqlens_k, params.k_offset, params.k_stride)
    if q_index is None and k_index is not None and "k_index" not in tensors:
        expected = "given if k_offset or k_stride is (or the tensor q_index)"
        raise ConfigError("q_offset", expected, "none")
    return q_index, k_index


def _index(
    side: str,
    tensors: Mapping[str, Tensor],
    cu_seqlens: Tensor | None,
    offset: int | None,
    stride: int,
) -> Tensor | None:
    heads, index = tensors[side], tensors.get(f"{side}_index")
    if offset is None and stride == 1:
        return index
    if index is not None:
        name, value = ("stride", stride) if offset is None else ("offset", offset)
        expected = f"absent if there is a tensor {side}_index"
        raise ConfigError(f"{side}_{name}", expected, value)
    check_heads(side, heads)
    if cu_seqlens is not None:
        check_cu_seqlens(f"cu_seqlens_{side}", cu_seqlens, heads)
    first, steps = offset or 0, max(0, ragged.longest_sequence(heads, cu_seqlens) - 1)
    if first + stride * steps > MAX_INDEX:
        name = f"the index of the last of {side}, {first} + {stride} * {steps},"
        raise ConfigError(name, f"at most {MAX_INDEX}", first + stride * steps)
    return first + stride * ragged.sequence_positions(heads.shape[-3], cu_seqlens, heads.device)

"""The order of axes in tensors of heads: `[B, S, H, D]` (bshd), or `[B, H, S, D]` (bhsd)."""

from collections.abc import Callable, Mapping

from torch import Tensor

from rope_core import Call, RopeError, ShapeError
from rope_core.calls import tensor_fields, with_fields
from service.endpoints.params import LayoutParams
from service.errors import ServiceError
from service.wire import Message

HEADS = ("q", "k", "v")
"""Tensors with an axis of heads and one of tokens."""

FEW_TOKENS = 256
"""No known model has more heads. More of them than tokens, up to this number, are suspicious."""

_REMEDY = 'if its axes are [B, H, S, D], send "tensor_layout": "bhsd"'


def as_bshd(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return the tensors of a message with heads `[B, H, S, D]` as views `[B, S, H, D]`.

    Raises:
        ShapeError: a tensor does not have four axes.
    """
    for name in HEADS:
        if name in tensors and tensors[name].ndim != 4:
            expected = "[B, H, S, D] with tensor_layout bhsd (packed [T, H, D] is for bshd only)"
            raise ShapeError(name, expected, list(tensors[name].shape))
    return {name: x.transpose(1, 2) if name in HEADS else x for name, x in tensors.items()}


def with_contiguous_heads(call: Call) -> Call:
    """Return a valid call whose q, k and v lie in memory as `[B, S, H, D]`."""
    heads = {name: x for name, x in tensor_fields(call).items() if name in HEADS}
    return with_fields(call, {name: x.contiguous() for name, x in heads.items()})


def answer_as_bhsd(answer: Message) -> Message:
    """Return an answer with `[B, H, S, D]` and `[B, H, S]` for `[B, S, H, D]` and `[B, S, H]`."""
    tensors = {name: x.transpose(1, 2).contiguous() for name, x in answer.tensors.items()}
    return Message(tensors, answer.params)


def layout_warnings(layout: str, name: str, heads: Tensor) -> tuple[str, ...]:
    """Return a warning if heads `[B, S, H, D]` or `[T, H, D]` seem to have another order."""
    num_tokens, num_heads = heads.shape[-3:-1]
    if layout != "bshd" or not num_tokens <= FEW_TOKENS < num_heads:
        return ()
    remedy = _REMEDY if heads.ndim == 4 else "if its axes are [H, T, D], transpose the first two"
    return (f"{name} has {num_tokens} tokens and {num_heads} heads: {remedy}",)


def explain_layout(
    failure: ShapeError,
    build: Callable[..., object],
    tensors: Mapping[str, Tensor],
    params: LayoutParams,
    resolver: object,
) -> ShapeError:
    """Return a failure of `build` with the order of its axes, or with the layout that fits."""
    if params.tensor_layout == "bhsd":
        return _with_order(failure)
    try:
        build(tensors, params.model_copy(update={"tensor_layout": "bhsd"}), resolver)
    except (RopeError, ServiceError):
        return failure
    hint = f"{failure.got}; {_REMEDY.replace('its', 'the')}"
    return ShapeError(failure.tensor, failure.expected, hint)


def _with_order(failure: ShapeError) -> ShapeError:
    """Return an error that names the order of the axes which it shows."""
    if failure.tensor not in HEADS or "bhsd" in failure.expected:
        return failure
    got = f"{failure.got} (both in the order [B, S, H, D])"
    return ShapeError(failure.tensor, failure.expected, got)

"""The order of axes in tensors of heads: `[B, S, H, D]` (bshd), or `[B, H, S, D]` (bhsd)."""

from collections.abc import Callable, Mapping

from torch import Tensor

from rope_core import Attend, Call, RopeError, ShapeError
from rope_core.calls import tensor_fields, with_fields
from rope_core.checks import has_unusual_heads, looks_heads_first
from rope_core.errors import HEADS_FIRST
from service.endpoints.params import LayoutParams
from service.errors import ServiceError
from service.wire import Message

HEADS = ("q", "k", "v")
"""Tensors with an axis of heads and one of tokens."""

_REMEDY = 'if its axes are [B, H, S, D], send "tensor_layout": "bhsd"'
_REMEDIES = {
    "[B, H, S, D]": 'Then send "tensor_layout": "bhsd"',
    "[B, S, H, D]": 'Then leave "tensor_layout" out',
    "[H, T, D]": "Then change the order to [T, H, D]",
    "[S, B, H, D]": "Then change the order to [B, S, H, D]",
}
"""What to do if heads have an order of axes other than the one that the request says."""

_REMEDY_BHSD = 'if the axes are [B, S, H, D], leave "tensor_layout" out'


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
    if layout != "bshd" or not has_unusual_heads(heads):
        return ()
    num_tokens, num_heads = heads.shape[-3:-1]
    remedy = _REMEDY if heads.ndim == 4 else "if its axes are [H, T, D], transpose the first two"
    return (f"{name} has {num_tokens} tokens and {num_heads} heads: {remedy}",)


def order_warnings(layout: str, call: Attend) -> tuple[str, ...]:
    """Return a warning if q and k of a call without positions seem to have another order of axes.

    Without a rope and a causal mask there may be more queries than keys: cross-attention. With
    a single head there is no warning.
    """
    is_ordered = call.rope is not None or call.attention.causal
    if layout != "bshd" or not is_ordered or call.q.shape[-2] == 1:
        return ()
    if not looks_heads_first(call.q, call.k):
        return ()
    return (
        f"{call.q.shape[1]} queries for {call.k.shape[1]} keys, with {call.q.shape[2]} heads each: "
        f"{_REMEDY.replace('its', 'the')}",
    )


def name_layout(warning: str, layout: str) -> str:
    """Return a warning of the library with the parameter to change, not the tensors."""
    if warning != HEADS_FIRST:
        return warning
    remedy = _REMEDY_BHSD if layout == "bhsd" else _REMEDY.replace("its", "the")
    return f"q and k seem to have another order of axes: {remedy}"


def explain_layout(
    failure: ShapeError,
    build: Callable[..., object],
    tensors: Mapping[str, Tensor],
    params: LayoutParams,
    resolver: object,
) -> ShapeError:
    """Return a failure of `build` with the order of its axes, and with the layout that fits.

    The hint of the library, to transpose the tensors, becomes that layout.
    """
    is_bhsd = params.tensor_layout == "bhsd"
    got, miscount = failure.got, failure.miscount
    if miscount is not None:
        miscount = miscount.heads_first if is_bhsd else miscount
        remedy = _REMEDIES.get(miscount.likely_order, "")
        return ShapeError(failure.tensor, failure.expected, got, remedy, miscount)
    if is_bhsd and "bhsd" in failure.expected:
        return failure
    if is_bhsd and failure.tensor in HEADS:
        got = f"{got} (both in the order [B, S, H, D])"
    if failure.hint or _can_build("bshd" if is_bhsd else "bhsd", build, tensors, params, resolver):
        remedy = _REMEDY_BHSD if is_bhsd else _REMEDY.replace("its", "the")
        got = f"{got}; {remedy}"
    return ShapeError(failure.tensor, failure.expected, got)


def _can_build(
    layout: str,
    build: Callable[..., object],
    tensors: Mapping[str, Tensor],
    params: LayoutParams,
    resolver: object,
) -> bool:
    """Tell whether the tensors make a valid call in a layout."""
    try:
        build(tensors, params.model_copy(update={"tensor_layout": layout}), resolver)
    except (RopeError, ServiceError):
        return False
    return True

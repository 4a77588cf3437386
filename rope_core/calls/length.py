"""The length that decides the frequencies of a call, and what decides it."""

import math
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from rope_core.config import RopeConfig
from rope_core.ragged import longest_sequence


class TakenLength(NamedTuple):
    """The length that decided the frequencies of a call."""

    value: int

    source: str
    """What decided the length, such as `positions of the call: max 5000 + 1`, `rope.length` or
    `max_position_embeddings`."""


def measured_length(
    side: str, x: Tensor, positions: Tensor | None, cu_seqlens: Tensor | None
) -> TakenLength:
    """Return the length of tokens: the last position of all rows, plus 1.

    Args:
        side: what has the tokens: `the call`, `q` or `k`.
        x: `[B, S, H, D]` or `[T, H, D]`.
        positions: as in a call, any shape; None counts from 0.
        cu_seqlens: as in a call.
    """
    if positions is None:
        num_tokens = longest_sequence(x, cu_seqlens)
        if cu_seqlens is None:
            return TakenLength(num_tokens, f"tokens of {side}: {num_tokens}, counted from 0")
        return TakenLength(num_tokens, f"longest sequence of {side}: {num_tokens} tokens")
    if not positions.numel():
        return TakenLength(0, f"positions of {side}: none")
    last = positions.max().item()
    value = max(0, math.ceil(last) + 1)
    rounding = ", rounded up" if last != int(last) else ", at least 0" if last < -1 else ""
    return TakenLength(value, f"positions of {side}: max {last} + 1{rounding}")


def taken_length(
    rope: RopeConfig, measure: Callable[[], TakenLength], name: str = "rope"
) -> TakenLength:
    """Return the length that decides the frequencies of a rope that depends on one.

    Args:
        rope: a rope whose variant depends on a length.
        measure: returns the length of the call. It is called only if the rope fixes no length: on
            a GPU, reading positions waits for all work.
        name: the parameter that holds the rope.
    """
    if rope.needs_length:
        taken = measure()
    else:
        length = dict(rope.parameters)["length"]
        assert isinstance(length, int), "its type was checked"
        taken = TakenLength(length, f"{name}.length")
    dependence = rope.length_dependence
    assert dependence is not None, "the rope depends on a length"
    if dependence.is_minimum and taken.value < dependence.above:
        return TakenLength(dependence.above, str(dependence.parameter))
    return taken

"""Move tokens between slots of a pool, and rotate their keys by a shift or to another rope."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from rope_core.angles import key_angles, shift_angles
from rope_core.backends import run
from rope_core.calls import Rotate
from rope_core.config import RopeConfig
from rope_core.kvcache.compute.page_memory import as_tensor, page_memory
from rope_core.kvcache.compute.quantisation import TokenSlots, dequantise, quantise
from rope_core.kvcache.plan import Move
from rope_core.rotary import rotary_work, run_rotate

Rotation = Callable[[Tensor], Tensor]
"""From keys `[n, Hkv, D]` to rotated ones."""


def run_move(move: Move) -> None:
    """Move keys and values of all layers. Keys of a layer are read before any is written."""
    keys, values, page_tokens = move.pool.keys, move.pool.values, move.pool.shape.page_tokens
    sources, targets = (as_tensor(slots).to(keys.device) for slots in (move.sources, move.targets))
    rotation = key_rotation(move, keys.device)
    stays = torch.equal(sources, targets)
    if move.pool.shape.has_scales:
        _move_quantised(move, sources, targets, rotation)
        return
    for layer in range(move.pool.shape.num_layers):
        source, target = (
            (slots // page_tokens + layer, slice(None), slots % page_tokens)
            for slots in (sources, targets)
        )
        k = keys[source]  # [n, Hkv, D]
        keys[target] = k if rotation is None else rotation(k)
        if not stays:
            values[target] = values[source]


def _move_quantised(
    move: Move, sources: Tensor, targets: Tensor, rotation: Rotation | None
) -> None:
    """As `run_move`, in pages that have scales: keys that are rotated are rounded once more."""
    memory = page_memory(move.pool)
    for layer in range(move.pool.shape.num_layers):
        k, v, scales = TokenSlots(memory, sources, layer).read()
        if rotation is not None:
            k, scales[:, 0] = quantise(rotation(dequantise(k, scales[:, 0])))
        TokenSlots(memory, targets, layer).write(k, v, scales)


def key_rotation(move: Move, device: torch.device) -> Rotation | None:
    """Return how the keys of a move are rotated; None if they are not."""
    rope = move.group.rope
    delta, positions = (
        None if x is None else as_tensor(x).to(device) for x in (move.delta, move.positions)
    )
    to = rope if move.to is None else move.to.rope
    if delta is None and to == rope:
        return None
    if to == rope and rope is not None and delta is not None and rope.is_composable:
        return shift_rotation(rope, delta)
    if rope is None and to is None:
        return None
    assert positions is not None, "turns do not add up"
    moved = positions if delta is None else positions + delta
    return lambda k: rotated_again(k, rope, positions, to, moved)


def shift_rotation(rope: RopeConfig, delta: Tensor) -> Rotation:
    """Return the rotation by `delta` `[n]` or `[A, n]`: float64 angles, no attention scaling."""
    angles = key_angles(shift_angles(delta, rope))
    if rope.layout == "interleaved_to_half":  # the keys are in halves already
        rope = replace(rope, layout="half")

    def rotate(k: Tensor) -> Tensor:
        work, (out,) = rotary_work((k,), (None,), angles, rope)
        run(work)
        return out

    return rotate


def rotated_again(
    k: Tensor, rope: RopeConfig | None, at: Tensor, to: RopeConfig | None, moved: Tensor
) -> Tensor:
    """Return keys that `rope` rotated at positions `at`, rotated by `to` at `moved` instead.

    In float32, rounded once.
    """
    unrotated: Tensor | None = k.float()
    if rope is not None:
        unrotated = run_rotate(Rotate(None, unrotated, rope, at, inverse=True)).k
    if to is not None:
        unrotated = run_rotate(Rotate(None, unrotated, to, moved)).k
    assert unrotated is not None, "the calls have k"
    return unrotated.to(k.dtype)

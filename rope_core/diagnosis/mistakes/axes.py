"""Mistakes of positions with several axes."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise, permutations
from typing import Any

import torch
from torch import Tensor

from rope_core.diagnosis.calls import Clues, RotaryCall
from rope_core.diagnosis.mistake import Wrong, mistake
from rope_core.diagnosis.mistakes.changes import each, with_rope
from rope_core.errors import ConfigError

MAX_AXES = 4
"""Most axes whose orders are all tried."""

SECTIONS = ((16, 24, 24), (24, 20, 20), (11, 11, 10), (8, 12, 12), (22, 22, 20))
"""Sections of released models."""

SECTIONED = ("mrope", "mrope_interleaved")


@mistake(
    "rotation",
    "table",
    "attention",
    text="All pairs follow {positions} instead of their own axis.",
    remedy="Pass positions of all axes, [A, S], and let each pair read its own axis.",
)
def axes_ignored(call: RotaryCall, clues: Clues) -> Iterator[Wrong]:
    """All pairs use one number of the position, the first axis or the running index.

    Looks like: text is right, because its axes are equal; tokens of images and all that follows are
        wrong.
    Why: positions are flattened to one axis, or generation does not pass the position ids.
    Hugging Face: `get_rope_index` gives `position_ids` [3, B, S]; pass them in every step, with
        `rope_deltas`.
    vLLM: `MRotaryEmbedding` takes `positions` [3, tokens]; the model class needs `SupportsMRoPE`.
    llama.cpp: `ggml_rope_multi` with four positions a token: `llama_batch.pos` has the sections one
        after the other.
    MLX: `nn.RoPE` has one axis, also for rope_type "mrope" in mlx-lm: use the model file of
        mlx-vlm.
    Source: transformers #41152 and #40490, mlx-lm #1768, gLLM #115.
    """
    axes = call.rope.num_axes
    if axes == 1:
        return
    yield (
        {"positions": "the first axis"},
        replace(call, positions=call.positions[:1].expand(axes, -1)),
    )
    if call.position_axis == "tokens":
        index = call.slots[None].expand(axes, -1)
        yield {"positions": "the index of the token"}, replace(call, positions=index)


@mistake(
    "rotation",
    "table",
    "attention",
    text="The axes of positions are read in the order {order}.",
    remedy="Give positions in the order of the model, such as time, height, width.",
)
def axes_order(call: RotaryCall, clues: Clues) -> Iterator[Wrong]:
    """Axes are exchanged: axis order[k] is read where axis k is right.

    Looks like: text is right; tokens of images are wrong unless their axes are equal.
    Why: the grid is given as width, height, time, or the sections of a model have another order
        than time, height, width (ERNIE 4.5 has height, width, time).
    Hugging Face: `position_ids[0]` is time, `[1]` height, `[2]` width.
    vLLM: `get_mrope_input_positions` has the same order.
    llama.cpp: the sections of `ggml_rope_multi` are time, height, width and one more.
    MLX: `position_ids` of the model file in mlx-vlm, in the order of transformers.
    Source: diffusers #12538, transformers #45381.
    """
    axes = call.rope.num_axes
    if not 1 < axes <= MAX_AXES:
        return
    for order in [*permutations(range(axes))][1:]:
        yield {"order": [*order]}, replace(call, positions=call.positions[[*order]])


@mistake(
    "rotation",
    "table",
    "attention",
    text="The axes have {arrangement}.",
    remedy="Follow mrope_section or axes_dim of the config, and mrope_interleaved: of interleaved"
    " sections the axes alternate, which is not the layout of pairs.",
)
def sections_wrong(call: RotaryCall, clues: Clues) -> Iterator[Wrong]:
    """The pairs of each axis are others: other numbers, or interleaved sections read as blocks.

    Looks like: text is right; tokens of images are wrong, in some pairs only.
    Why: sections of Qwen2-VL are contiguous and those of Qwen3-VL interleaved; mrope_interleaved is
        taken for the layout of pairs, or the sections of another model are used.
    Hugging Face: `mrope_section` in `rope_parameters`; Qwen2-VL splits by it, Qwen3-VL takes every
        third pair.
    vLLM: `mrope_section` and `mrope_interleaved` in `rope_parameters`.
    llama.cpp: `<arch>.rope.dimension_sections`; `GGML_ROPE_TYPE_IMROPE` for interleaved sections,
        `GGML_ROPE_TYPE_MROPE` for contiguous ones.
    MLX: `mrope_section` of the model file in mlx-vlm.
    Source: Qwen3-VL #209.
    """
    rope = call.rope
    if rope.axes == "axial":
        yield from _axial_sections(call, clues)
    if rope.axes not in SECTIONED:
        return
    given: Any = dict(rope.axes_parameters)["mrope_section"]
    other = SECTIONED[1 - SECTIONED.index(rope.axes)]
    known = [sections for sections in SECTIONS if sum(sections) == rope.half]
    choices = [(other, given)]
    choices += [(scheme, sections) for sections in known for scheme in (rope.axes, other)]
    if clues.axis is not None and len(clues.axis) == rope.half:
        choices.append(("mrope", _blocks(clues.axis, (0, 1, 2))))
        choices.append((SECTIONED[1], _interleaved(clues.axis)))
    else:  # not measured: height and width have as many pairs, as in most models
        step = max(1, rope.half // 16)
        firsts = range(step, rope.half - 1, step)
        splits = [(first, (rope.half - first) // 2) for first in firsts]
        choices += [(rope.axes, (t, h, rope.half - t - h)) for t, h in splits]

    def change(choice: tuple[str, Any]) -> RotaryCall:
        scheme, sections = choice
        if scheme == SECTIONED[1] and 3 * max(sections[1:]) > rope.half + 2:
            raise ConfigError("mrope_section", "such that the axes alternate", sections)
        return with_rope(call, axes=scheme, axes_parameters=(("mrope_section", sections),))

    seen = set()
    for found, wrong in each("choice", choices, call, change):
        axis = wrong.rope.frequency_table.axis
        of_pairs = None if axis is None else tuple(axis.tolist())
        if of_pairs in seen:
            continue
        seen.add(of_pairs)
        scheme, sections = found["choice"]
        name = "blocks" if scheme == "mrope" else "interleaved sections"
        arrangement = f"{name} of {[*sections]} pairs"
        yield {"mrope_section": [*sections], "arrangement": arrangement}, wrong


def _axial_sections(call: RotaryCall, clues: Clues) -> Iterator[Wrong]:
    """Return the calls whose axes have blocks of other widths."""
    given: dict[str, Any] = dict(call.rope.axes_parameters)
    axes = call.rope.num_axes
    order = given.get("axes_order") or tuple(range(axes))
    equal = call.rope.half // axes
    rest = call.rope.half - equal * (axes - 1)
    blocks = [(rest, *(equal,) * (axes - 1)), (*(equal,) * (axes - 1), rest)]
    if clues.axis is not None and len(clues.axis) == call.rope.half:
        blocks.insert(0, _blocks(clues.axis, order))
    widths = [tuple(2 * block[order.index(axis)] for axis in range(axes)) for block in blocks]

    def change(axes_dim: tuple[int, ...]) -> RotaryCall:
        return with_rope(call, axes_parameters=tuple((given | {"axes_dim": axes_dim}).items()))

    for found, wrong in each("axes_dim", dict.fromkeys(widths), call, change):
        axes_dim = [*found["axes_dim"]]
        yield {"axes_dim": axes_dim, "arrangement": f"blocks of {axes_dim} channels"}, wrong


def _blocks(axis: Tensor, order: Sequence[int]) -> tuple[int, ...]:
    """Return the sizes of blocks that agree with most measured axes, `[n]`; -1 is unknown.

    Args:
        axis: measured.
        order: axis of each block.
    """
    agreed = [torch.cat((torch.zeros(1), (axis == one).cumsum(0))) for one in order]
    best, begins = agreed[0], []  # best[e]: pairs that agree, if the blocks so far end at e
    for row in agreed[1:]:
        most, begin = (best - row).cummax(0)
        begins.append(begin)
        best = most + row
    ends = [len(axis)]
    for begin in reversed(begins):
        ends.append(int(begin[ends[-1]]))
    return tuple(end - begin for end, begin in pairwise((*ends, 0)))[::-1]


def _interleaved(axis: Tensor) -> tuple[int, ...]:
    """Return the interleaved sections that agree with most measured axes, `[n]`."""
    counts = []
    for one in (1, 2):
        column = axis[one::3]
        gain = torch.where(column == one, 1, torch.where(column == -1, 0, -1)).cumsum(0)
        best = int(gain.argmax()) if len(gain) else 0
        counts.append(best + 1 if len(gain) and int(gain[best]) > 0 else 0)
    return len(axis) - sum(counts), *counts

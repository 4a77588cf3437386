"""Mistakes in which channels rotate together, and along which axis positions run."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction

import torch

from rope_core.diagnosis.calls import Clues, RotaryCall
from rope_core.diagnosis.mistake import EVERY, Wrong, mistake
from rope_core.errors import ConfigError
from rope_core.layouts import deinterleave, interleave

SHARES = tuple(Fraction(n, 40) for n in (10, 20, 30, 16, 12, 5))
"""Shares of a head that models rotate."""


@mistake(
    "rotation",
    "attention",
    text="Pairs are those of the layout '{layout}', where '{expected_layout}' is right.",
    remedy="Pair channels as the model does: (i, i + rotary_dim / 2) for half, (2i, 2i + 1) for"
    " interleaved; or permute the rows of the q and k projections.",
)
def layout_swapped(call: RotaryCall, clues: Clues) -> Iterator[Wrong]:
    """Pairs are other channels than in the model: halves for neighbours, or the reverse.

    Looks like: position 0 is right and the next token or two nearly so, then the output is
        garbage. Norms are right.
    Why: the same angles are applied to other pairs. Checkpoints of Hugging Face have the rows of
        their q and k projections permuted for halves; those of Meta and GPT-J are for neighbours.
    Hugging Face: `rotate_half` pairs halves. Cohere, GLM and GPT-J pair neighbours, with
        `x[..., 0::2]` and `x[..., 1::2]`.
    vLLM: `get_rope(..., is_neox_style=True)` pairs halves, `False` pairs neighbours.
    llama.cpp: `llama_model_rope_type()`: NORM pairs neighbours, NEOX pairs halves. The converter
        permutes q and k of Llama (`LlamaModel.permute`) for NORM; do it for k with its own number
        of heads.
    MLX: `traditional=False` pairs halves, `traditional=True` pairs neighbours.
    Source: transformers #25199, flash-attention #288, mlx-examples #170, llama.cpp #3364.
    """
    if call.table_layout is not None:
        return
    for layout in ("half", "interleaved", "interleaved_to_half"):
        if layout != call.rope.layout:
            rope = replace(call.rope, layout=layout)
            yield {"layout": layout}, replace(call, rope=rope)


@mistake(
    "rotation",
    "attention",
    text="The columns of cosine and sine are repeated in one layout and the partners of channels"
    " are those of the other, so norms change.",
    remedy="Repeat the columns as the channels are paired: cat((t, t)) with rotate_half,"
    " repeat_interleave(2) with neighbours.",
)
def layout_mixed(call: RotaryCall, clues: Clues) -> Iterator[Wrong]:
    """The columns of tables are repeated in one layout, and partners are those of the other.

    Looks like: norms of q and k change, already at position 1; scores depend on absolute
        positions.
    Why: the columns of cosine and sine are repeated for one layout and the partners of channels
        are taken from the other, so each channel of a pair gets an angle of its own.
    Hugging Face: `torch.cat((freqs, freqs), -1)` belongs to `rotate_half`;
        `repeat_interleave(2, -1)` belongs to neighbours.
    vLLM: its tables have `rotary_dim / 2` columns of each, so look in your own code.
    llama.cpp: `ggml_rope_ext` has one angle for a pair: look at a custom kernel or the conversion.
    MLX: `mx.fast.rope` computes one angle for a pair, so look in your own code.
    Source: vjepa2 #15, bert4torch #1, ark-nlp #47.
    """
    rope = call.rope
    if call.table_layout is not None or rope.frequency_table.inv_freq.numel() != rope.half:
        return
    mixes = [("half", "interleaved"), ("interleaved", "half")]
    if rope.layout == "interleaved_to_half":
        mixes += [(rope.layout, "half"), (rope.layout, "interleaved")]
    for pairs, tables in mixes:
        if (pairs, rope.layout) != ("interleaved", "interleaved_tiled"):
            other = replace(rope, layout=pairs)  # type: ignore[arg-type]
            yield {}, replace(call, rope=other, table_layout=tables)  # type: ignore[arg-type]


@mistake(
    "rotation",
    text="The rotation is right, and its channels are in another order: output ="
    " expected[..., permutation] with permutation {permutation}. This is no mistake if q and k both"
    " have this order, because scores do not change.",
    remedy="If only one of q and k has this order, or if vectors are compared, reorder the output:"
    " output[..., argsort(permutation)].",
)
def layout_permuted(call: RotaryCall, clues: Clues) -> Iterator[Wrong]:
    """The rotation is right, and the channels are returned in another order.

    Looks like: vectors differ from position 0 on, although scores q.k are equal.
    Why: a kernel reads neighbours and writes halves (DeepSeek), or its output is not put back into
        its order. That is no mistake if q and k share the order.
    Hugging Face: `apply_rotary_pos_emb_interleave` of DeepSeek-V3 reads neighbours and writes
        halves; compare scores with other code, not vectors.
    vLLM: `is_neox_style=False` writes neighbours.
    llama.cpp: NORM writes neighbours.
    MLX: `traditional=True` writes neighbours.
    Source: vllm #26995, vllm-metal #44, Megatron-LM #1547, optimum-intel #1877, xllm #853.
    """
    rope = call.rope
    if call.permutation is not None:
        return
    found = [] if clues.permutation is None else [clues.permutation]
    start = rope.head_dim - rope.rotary_dim if rope.trailing else 0
    channels = torch.arange(rope.head_dim)
    for order in (deinterleave, interleave):
        permuted = channels.clone()
        permuted[start : start + rope.rotary_dim] = order(channels[start : start + rope.rotary_dim])
        found.append(tuple(permuted.tolist()))
    for permutation in dict.fromkeys(found):
        if permutation != tuple(range(rope.head_dim)):
            yield {"permutation": [*permutation]}, replace(call, permutation=permutation)


@mistake(
    *EVERY,
    text="The whole head of {rotary_dim} channels rotates, where {expected_rotary_dim} are right.",
    remedy="Rotate the first {expected_rotary_dim} channels only, and let the others pass through:"
    " read partial_rotary_factor, rotary_pct or rotary_dim of the config, or the class's default.",
)
def partial_ignored(call: RotaryCall, clues: Clues) -> Iterator[Wrong]:
    """The whole head is rotated where the model rotates a part.

    Looks like: channels differ that the model leaves as they are, and the pairs are others.
    Why: the rotated share is a default of the config's class and not in the file, or has another
        name there: partial_rotary_factor, rotary_pct, rotary_dim.
    Hugging Face: `rope_parameters["partial_rotary_factor"]`; Phi's class has 0.5, GPT-NeoX 0.25.
    vLLM: `rope_parameters["partial_rotary_factor"]` of `get_rope`; older versions: `rotary_dim`.
    llama.cpp: `n_rot`, from the key `<arch>.rope.dimension_count`.
    MLX: `dims` of `nn.RoPE` or `initialize_rope`: `int(partial_rotary_factor * head_dim)`.
    Source: mlx-lm #1698, lmdeploy #3861, vllm #16912 and #30389, maxtext #4616.
    """
    rope = call.rope
    if rope.rotary_dim < rope.head_dim:
        yield from _with_rotary_dim(call, rope.head_dim)
    elif rope.rope_type == "proportional":
        share = dict(rope.parameters)["partial_rotary_factor"]
        if share != 1:
            parameters = {**dict(rope.parameters), "partial_rotary_factor": 1.0}
            whole = replace(rope, parameters=tuple(parameters.items()))
            yield {"rotary_dim": rope.head_dim}, replace(call, rope=whole)


@mistake(
    *EVERY,
    text="{rotary_dim} channels of a head rotate, where {expected_rotary_dim} are right.",
    remedy="Rotate {expected_rotary_dim} channels of each head.",
)
def rotary_dim_wrong(call: RotaryCall, clues: Clues) -> Iterator[Wrong]:
    """More or fewer channels of a head are rotated than in the model.

    Looks like: pairs and frequencies are those of another width.
    Why: `partial_rotary_factor` is applied twice, a legacy `rotary_dim` is dropped, or the width of
        another model of the family is taken. head_dim is not always hidden_size / heads.
    Hugging Face: `int(head_dim * partial_rotary_factor)`.
    vLLM: pass the whole `head_size`; `get_rope` multiplies it by `partial_rotary_factor`.
    llama.cpp: `<arch>.rope.dimension_count`; a K-shift needs the same `n_rot`.
    MLX: `dims` of `nn.RoPE` or `initialize_rope`.
    Source: vllm #30384, transformers #48241 and #48486, llama.cpp #4889 and #4156.
    """
    rope = call.rope
    widths = [clues.rotary_dim] if clues.rotary_dim else []
    for share in SHARES:
        widths.append(int(rope.head_dim * share))
        widths.append(int(rope.rotary_dim * share))
    widths.append(2 * rope.rotary_dim)
    for width in dict.fromkeys(widths):
        if width % 2 == 0 and 0 < width < rope.head_dim and width != rope.rotary_dim:
            yield from _with_rotary_dim(call, width)
    if clues.rotary_dim and clues.rotary_dim > rope.head_dim:  # a table of a wider head
        wider = replace(call, rope=replace(rope, head_dim=clues.rotary_dim))
        yield from _with_rotary_dim(wider, clues.rotary_dim)


def _with_rotary_dim(call: RotaryCall, width: int) -> Iterator[Wrong]:
    """Return the calls that rotate `width` channels."""
    rope = call.rope
    changes: list[dict[str, object]] = [{}]
    if rope.rope_type == "proportional":  # an ordinary partial rotation in its place
        plain: dict[str, object] = {"rope_type": "default", "parameters": ()}
        changes += [{**plain, "frequency_dim": rope.rotary_dim}, plain]
    for change in changes:
        with suppress(ConfigError):  # lists and sections are of one width
            wrong = replace(rope, rotary_dim=width, **change)  # type: ignore[arg-type]
            yield {"rotary_dim": width}, replace(call, rope=wrong)


@mistake(
    "rotation",
    "attention",
    text="The rotated channels are at the other end of the head.",
    remedy="Rotate the last channels of a head if the model has its part without positions first"
    " (DeepSeek), otherwise the first.",
)
def slice_at_other_end(call: RotaryCall, clues: Clues) -> Iterator[Wrong]:
    """The first channels of a head are rotated where the last are right, or the reverse.

    Looks like: channels that should pass through turn, and those that should turn do not.
    Why: heads of MLA have the part without positions first in some code and last in other code;
        DeepSeek-V4 rotates the last channels of a head.
    Hugging Face: `torch.split(q, [qk_nope_head_dim, qk_rope_head_dim], -1)`: rotate the second.
    vLLM: `q[..., qk_nope_head_dim:]` goes to `rotary_emb`.
    llama.cpp: `q_pe` is a view at the offset of `n_embd_head_qk_nope` elements.
    MLX: `mx.split(q, [qk_nope_head_dim], axis=-1)`: rotate the second.
    Source: neuronx-distributed-inference #106, Megatron-LM #1547.
    """
    rope = call.rope
    if rope.rotary_dim < rope.head_dim:
        yield {}, replace(call, rope=replace(rope, trailing=not rope.trailing))


@mistake(
    "rotation",
    text="Positions run along the axis of the {axis}, not along the tokens.",
    remedy="If you sent tensors [B, H, S, D], as Hugging Face's attention has them, the axis is no"
    " mistake: send before.transpose(1, 2) and after.transpose(1, 2). Otherwise transpose to the"
    " order that your rotation expects.",
)
def axis_mistaken(call: RotaryCall, clues: Clues) -> Iterator[Wrong]:
    """Positions run along the heads or along the batch.

    Looks like: all tokens of a head have the same angle, and head 0 (or row 0) is not rotated.
    Why: code for [B, S, H, D] gets [B, H, S, D], or the reverse; broadcasting hides the mistake.
    Hugging Face: `apply_rotary_pos_emb(..., unsqueeze_dim=1)` is for [B, H, S, D], 2 for
        [B, S, H, D].
    vLLM: `q` and `k` are [tokens, H * D], and `positions` is [tokens].
    llama.cpp: `ggml_rope_ext` takes [D, H, tokens] in ggml's order, one position for a token.
    MLX: `mx.fast.rope` counts along the axis before the last: pass [B, H, S, D].
    Source: emlx #121.
    """
    rows, tokens, heads = call.shape
    if call.position_axis != "tokens":
        return
    for axis, count in (("heads", heads), ("batch", rows)):
        if count < 2 or (axis == "batch" and rows * tokens == 1):
            continue
        counted = torch.arange(count, dtype=torch.float64).expand(len(call.positions), -1)
        given = call.positions[:, :count]
        choices = [counted] if given.equal(counted) or given.shape[1] < count else [counted, given]
        for positions in choices:
            wrong = replace(call, position_axis=axis, positions=positions)  # type: ignore[arg-type]
            yield {"axis": axis}, wrong

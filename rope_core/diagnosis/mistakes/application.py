"""Mistakes in how often, in which direction and at which tokens a rotation is applied."""

from collections.abc import Iterator
from dataclasses import replace

from rope_core.diagnosis.calls import Clues, RotaryCall
from rope_core.diagnosis.mistake import Wrong, mistake


@mistake(
    "rotation",
    "attention",
    text="Nothing is rotated.",
    remedy="Apply the rotation to q and to k, before the scores.",
)
def not_rotated(call: RotaryCall, clues: Clues) -> Iterator[Wrong]:
    """Rotate nothing.

    Looks like: what comes out is what went in; attention does not know positions.
    Why: the call is missing in one branch, or its result is not used.
    Hugging Face: `apply_rotary_pos_emb` returns new tensors, it does not write to its arguments.
    vLLM: `rotary_emb(positions, q, k)` writes in place on a GPU, and returns q and k.
    llama.cpp: `ggml_rope_ext` returns a new tensor of the graph.
    MLX: `rope(x, offset=...)` returns a new array.
    Source: TensorRT-LLM #16378.
    """
    if call.times == 1:
        yield {}, replace(call, times=0)


@mistake(
    "rotation",
    "attention",
    text="The rotation is applied twice: angles are twice as large, the attention scaling is"
    " squared.",
    remedy="Rotate once: keys in a cache are rotated already.",
)
def rotated_twice(call: RotaryCall, clues: Clues) -> Iterator[Wrong]:
    """Rotate what is rotated already.

    Looks like: angles are twice as large, which is the same as twice the positions.
    Why: keys are rotated before the cache and after it, or a fused kernel rotates also.
    Hugging Face: keys are rotated before `past_key_values.update`.
    vLLM: keys are rotated before they go to the cache.
    llama.cpp: keys in the cache are rotated; only a K-shift rotates them by the difference.
    MLX: keys are rotated before `cache.update_and_fetch`.
    Source: shainet #110, TensorRT-LLM #16378.
    """
    if call.times == 1:
        yield {}, replace(call, times=2)


@mistake(
    "rotation",
    "table",
    "attention",
    text="Angles have the opposite sign.",
    remedy="Use (x cos - y sin, y cos + x sin) for a pair (x, y), or change the sign of the sines.",
)
def direction_reversed(call: RotaryCall, clues: Clues) -> Iterator[Wrong]:
    """Rotate by minus the angle, or apply the inverse.

    Looks like: cosines are right, sines have the other sign.
    Why: the halves of rotate_half are exchanged, or the matrix is transposed.
    Hugging Face: `rotate_half` is `cat((-x2, x1), -1)`.
    vLLM: `o1 = x1 * cos - x2 * sin`, `o2 = x2 * cos + x1 * sin`.
    llama.cpp: `ggml_rope_ext` rotates, `ggml_rope_ext_back` rotates back.
    MLX: a negative `scale` or offset.
    Source: nanochat rotates in this direction on purpose.
    """
    if not call.times:
        return
    wrong = replace(call, rope=replace(call.rope, negative=not call.rope.negative))
    gain = call.rope.attention_scaling if call.gain is None else call.gain
    yield {}, wrong
    if gain not in (0, 1):
        yield {}, replace(wrong, gain=1 / gain)


@mistake(
    "rotation",
    "table",
    "attention",
    text="Each row counts its tokens from 0, also the padded ones.",
    remedy="Count only real tokens: positions = (mask.cumsum(-1) - 1).clamp(min=0).",
)
def padding_counted(call: RotaryCall, clues: Clues) -> Iterator[Wrong]:
    """Count padding on the left as positions.

    Looks like: rows of a batch with padding on the left differ, each by another offset.
    Why: positions are 0, 1, 2, ... in each row, whatever the mask says.
    Hugging Face: `position_ids` from `attention_mask.cumsum(-1) - 1`.
    vLLM: sequences are packed, so there is no padding.
    llama.cpp: `batch.pos` has the position of each token.
    MLX: `offset` of each row, as `BatchKVCache` has it.
    Source: transformers #22161, #26072, LLaDA #120.
    """
    if call.position_axis != "tokens":
        return
    difference = call.slots - call.positions[0]
    if bool((difference == difference[0]).all()):
        return  # the same for all tokens: position_offset
    if bool((call.positions == call.positions[0]).all()):  # else axes_ignored
        yield {}, replace(call, positions=call.slots.expand(len(call.positions), -1))


@mistake(
    "rotation",
    "attention",
    text="This layer does not rotate in the model, and theirs does.",
    remedy="Do not rotate in this layer: no_rope_layers[i] == 1 means that layer i rotates.",
)
def nope_layer_rotated(call: RotaryCall, clues: Clues) -> Iterator[Wrong]:
    """Rotate in a layer without rotary embedding.

    Looks like: what comes out differs from what went in, in a layer that should keep it.
    Why: the flags of layers without rotation are inverted or ignored.
    Hugging Face: `no_rope_layers` of Llama 4 and SmolLM3 has 1 for layers that rotate.
    vLLM: `nope` of Llama 4's layers.
    llama.cpp: `n_no_rope_layer_step`.
    MLX: `use_rope` of Llama 4's layers.
    Source: rope-porting-mistakes, B17.
    """
    if call.times == 0 and clues.resolved is not None and clues.resolved.nope is not None:
        yield {}, replace(call, times=1)

"""Mistakes in how often, in which direction and at which tokens a rotation is applied."""

from collections.abc import Iterator
from dataclasses import replace

from rope_core.diagnosis.calls import Clues, RotaryCall
from rope_core.diagnosis.mistake import Wrong, mistake
from rope_core.diagnosis.mistakes.base import EVERY


@mistake(
    "rotation",
    "attention",
    text="Nothing is rotated.",
    remedy="Apply the rotation to q and to k, before the scores.",
)
def not_rotated(call: RotaryCall, clues: Clues) -> Iterator[Wrong]:
    """Rotate nothing.

    Looks like: what comes out is what went in; a model that reads words in any order alike.
    Why: the result of the call is thrown away, or one branch (a cache, a fused kernel, a layer
        type) has no call.
    Hugging Face: `apply_rotary_pos_emb` returns new tensors: `q, k = apply_rotary_pos_emb(q, k,
        cos, sin)`.
    vLLM: `q, k = self.rotary_emb(positions, q, k)`; only some backends also write in place.
    llama.cpp: use the tensor that `ggml_rope_ext` returns as Qcur and Kcur.
    MLX: `queries = self.rope(queries, offset=cache.offset)`, and the same for keys.
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

    Looks like: each angle is twice as large, as if positions were doubled; norms are right unless
        the variant has an attention scaling.
    Why: keys are rotated when they enter the cache and again when they leave it, or a fused kernel
        rotates what the model has rotated already.
    Hugging Face: rotate before `past_key_values.update`, never what it returns.
    vLLM: the cache holds rotated keys; a backend with a fused rotation needs unrotated q and k.
    llama.cpp: keys of the cache are rotated; a K-shift rotates them by the difference only.
    MLX: rotate before `cache.update_and_fetch`, never what it returns.
    Source: shainet #110, TensorRT-LLM #16378, vllm #30384.
    """
    if call.times == 1:
        yield {}, replace(call, times=2)


@mistake(
    *EVERY,
    text="Angles have the opposite sign.",
    remedy="Use (x cos - y sin, y cos + x sin) for a pair (x, y), or change the sign of the sines.",
)
def direction_reversed(call: RotaryCall, clues: Clues) -> Iterator[Wrong]:
    """Rotate by minus the angle, or apply the inverse.

    Looks like: cosines are right and sines have the other sign. Scores are right if q and k both
        have it, except with weights that were trained in the usual direction.
    Why: the minus of `rotate_half` is on the other half, the matrix is transposed, or the inverse
        is applied.
    Hugging Face: `rotate_half` is `cat((-x2, x1), -1)`.
    vLLM: `o1 = x1 * cos - x2 * sin` and `o2 = x2 * cos + x1 * sin`.
    llama.cpp: `ggml_rope_ext` rotates forward, `ggml_rope_ext_back` rotates back.
    MLX: `mx.fast.rope` rotates forward; look for a negative `scale`, or for your own code.
    Source: nanochat #489 (there on purpose), lalamo #268.
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

    Looks like: in a batch with padding on the left each padded row is off by its padding; a row
        alone is right.
    Why: positions are 0, 1, 2, ... in each row, whatever the mask says.
    Hugging Face: `position_ids = attention_mask.cumsum(-1) - 1`, as `generate` does; a forward call
        without `position_ids` counts the padding.
    vLLM: sequences are packed without padding.
    llama.cpp: give each token its own `llama_batch.pos`.
    MLX: `BatchKVCache(left_padding=...)` has an `offset` for each row.
    Source: transformers #22161 and #26072, unsloth #3699, alpaca-lora #315, LLaDA #120.
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
    Why: the flags are read the wrong way: `no_rope_layers[i] == 1` means that layer i does rotate.
    Hugging Face: `self.use_rope = config.no_rope_layers[layer_idx]` in Llama 4 and SmolLM3.
    vLLM: Llama 4's attention has `self.nope` and no `rotary_emb` then.
    llama.cpp: `hparams.n_no_rope_layer_step`, fixed for each architecture; the GGUF file has no
        key.
    MLX: `use_rope` of the attention in mlx-lm: every fourth layer of Llama 4 does not rotate.
    Source: Llama 4 and SmolLM3 in transformers, `no_rope_layers` of their configurations.
    """
    if call.times == 0 and clues.resolved is not None and clues.resolved.nope is not None:
        yield {}, replace(call, times=1)

"""Mistakes in which keys a query sees."""

from collections.abc import Iterator
from dataclasses import replace

from rope_core.diagnosis.attention_call import AttentionCall, AttentionClues
from rope_core.diagnosis.mistake import Wrong, mistake


@mistake(
    "attention",
    text="The causal mask is aligned to the first key; it must be aligned to the last key.",
    remedy="Let query i see keys up to i + number of keys - number of queries.",
)
def causal_top_left(call: AttentionCall, clues: AttentionClues) -> Iterator[Wrong]:
    """The mask counts queries from 0, although keys of a cache come before them.

    Looks like: one sequence from its start is right; decoding, and later chunks of a prefill, see
        only the oldest keys.
    Why: `is_causal=True` of PyTorch aligns the mask to the first key; FlashAttention since 2.1, MLX
        and this library align it to the last.
    Hugging Face: pass the mask of `create_causal_mask`, and none for a single query.
    vLLM: backends align to the last key; pass `cu_seqlens` and lengths of whole sequences.
    llama.cpp: the mask compares positions of cells, so keep `llama_batch.pos` right.
    MLX: `mask="causal"` is aligned to the last key; `create_causal_mask(N, offset)` needs the
        offset of the cache.
    Source: pytorch #108108, #103082 and #144858, flash-attention #517, mlx #2836, onnx #8068.
    """
    q_index = call.q_index_from_zero
    differs = q_index is not call.q_index and not q_index.equal(call.q_index)
    if differs and (call.causal or call.window is not None or call.chunk is not None):
        yield {}, replace(call, q_index=q_index)


@mistake(
    "attention",
    text="Queries see later keys; attention must be causal.",
    remedy="Hide the keys after each query.",
)
def causal_missing(call: AttentionCall, clues: AttentionClues) -> Iterator[Wrong]:
    """No mask hides later keys.

    Looks like: the last token of a sequence is right and all others are wrong; decoding one token
        after the other is right.
    Why: `is_causal` is not passed, or a mask of padding takes the place of the causal one.
    Hugging Face: `is_causal` of the attention module, and the mask of `create_causal_mask`.
    vLLM: `attn_type=AttentionType.DECODER`; encoder types have no causal mask.
    llama.cpp: `<arch>.attention.causal`, and `causal_attn` of the context parameters.
    MLX: `mask="causal"`; `mask=None` hides nothing.
    Source: [Attention Is All You Need](https://arxiv.org/abs/1706.03762), Vaswani et al., 2017,
        section 3.2.3.
    """
    if call.causal:
        yield {}, replace(call, causal=False)
        if call.window is not None:  # a window without a direction
            yield {}, replace(call, causal=False, window_ahead=call.window - 1)


@mistake(
    "attention",
    text="A query sees a window of {window} keys; it must see {expected_window}.",
    remedy="Hide key j from query i where i - j >= window.",
)
def window_off_by_one(call: AttentionCall, clues: AttentionClues) -> Iterator[Wrong]:
    """The sliding window has one key more or one key less than the model's.

    Looks like: sequences that fit into the window are right; later tokens are slightly wrong.
    Why: libraries count differently: the window has the query's own key or not, and the comparison
        is `<` or `<=`.
    Hugging Face: `sliding_window` keys with the query's own: hidden where i - j >= sliding_window.
    vLLM: `per_layer_sliding_window` counts alike; FlashAttention gets `(window - 1, 0)`.
    llama.cpp: `is_masked_swa` hides where pos_i - pos_j >= n_swa.
    MLX: `create_causal_mask(window_size=...)` hides where i - j >= window_size.
    Source: transformers #29623, vllm #3385, #4380 and #9679.
    """
    if call.window is None:
        return
    ahead = call.window_ahead
    for step in (1, -1):
        window = call.window + step
        if window >= 1:
            yield {"window": window}, replace(call, window=window)
            if ahead is not None:
                both = replace(call, window=window, window_ahead=ahead + step)
                yield {"window": window}, both
                yield {"window": window}, replace(call, window_ahead=ahead + step)


@mistake(
    "attention",
    text="A query sees all keys up to itself; it must see a window of {expected_window} keys.",
    remedy="Hide key j from query i where i - j >= window.",
)
def window_ignored(call: AttentionCall, clues: AttentionClues) -> Iterator[Wrong]:
    """The sliding window of the layer has no effect.

    Looks like: sequences that fit into the window are right; later tokens are wrong.
    Why: layers of two types share one mask, or the kernel has no window.
    Hugging Face: `create_sliding_window_causal_mask` for layers whose `layer_types` entry is
        "sliding_attention".
    vLLM: `per_layer_sliding_window` of `Attention`, in the layers that have a window.
    llama.cpp: `<arch>.attention.sliding_window` and `.sliding_window_pattern`; `set_swa_pattern` in
        the architecture.
    MLX: `create_attention_mask(h, cache, window_size=...)`; `RotatingKVCache(max_size=window)`.
    Source: vllm #7442, vllm-ascend #2758.
    """
    if call.window is not None:
        yield {"window": None}, replace(call, window=None, window_ahead=None)


@mistake(
    "attention",
    text="A query sees keys of all chunks; it must see its own chunk of {expected_chunk} keys.",
    remedy="Hide key j from query i where i // chunk != j // chunk.",
)
def chunk_ignored(call: AttentionCall, clues: AttentionClues) -> Iterator[Wrong]:
    """The chunks of a layer have no effect (Llama 4).

    Looks like: sequences that fit into one chunk are right; later tokens are wrong.
    Why: layers with chunks (Llama 4) are served as layers that see all keys, or with a sliding
        window.
    Hugging Face: `create_chunked_causal_mask` for layers of "chunked_attention", with
        `attention_chunk_size`.
    vLLM: `ChunkedLocalAttention` in place of `Attention`.
    llama.cpp: `LLAMA_SWA_TYPE_CHUNKED` with `n_swa` of the chunk.
    MLX: the chunk mask of Llama 4's model file, with `ChunkedKVCache`.
    Source: Llama 4 in transformers, `create_chunked_causal_mask`.
    """
    if call.chunk is not None:
        yield {"window": None}, replace(call, chunk=None)


@mistake(
    "attention",
    text="The mask has no effect.",
    remedy="Pass the mask to attention, in addition to the causal mask.",
)
def mask_ignored(call: AttentionCall, clues: AttentionClues) -> Iterator[Wrong]:
    """The mask of the call has no effect, such as that of padding.

    Looks like: rows without padding are right, the others are wrong.
    Why: the kernel takes a causal flag or a mask, and the flag wins; or the mask has another
        meaning there: true for hidden, or added numbers.
    Hugging Face: pass `attention_mask`; FlashAttention needs the 2-D mask of padding, sdpa and
        eager a 4-D mask.
    vLLM: has no mask: leave padding out of the batch.
    llama.cpp: sequence ids of `llama_batch` take the place of a mask.
    MLX: `mask` of `mx.fast.scaled_dot_product_attention`: boolean, true for visible, or added.
    Source: transformers #22161 and #26072, mlx-lm #1903.
    """
    if call.mask is not None:
        yield {}, replace(call, mask=None)

"""Mistakes of attention: the scale of the scores, masks, sinks, heads, and the log-sum-exp."""

from collections.abc import Iterator
from dataclasses import replace

from rope_core.diagnosis.attention_call import AttentionCall, AttentionClues
from rope_core.diagnosis.mistake import Wrong, mistake


@mistake(
    "attention",
    text="Scores are multiplied by {scale}; the right factor is {expected_scale}.",
    remedy="Multiply the scores by the model's factor before the softmax.",
)
def scale_wrong(call: AttentionCall, clues: AttentionClues) -> Iterator[Wrong]:
    """The scores are multiplied by another factor than the model's.

    Looks like: attention is too flat or too sharp at every position. A query that sees one key is
        right.
    Why: the model has its own factor (query_pre_attn_scalar, attention_multiplier, 1.0 after
        normalised queries), or the width of an absorbed or padded head is taken for head_dim.
    Hugging Face: `self.scaling` of the attention module: `query_pre_attn_scalar ** -0.5` in Gemma,
        `attention_multiplier` in Granite.
    vLLM: `scale` of `Attention`.
    llama.cpp: `<arch>.attention.scale`, `hparams.f_attention_scale`, `kq_scale` of `build_attn`.
    MLX: `scale` of `mx.fast.scaled_dot_product_attention`.
    Source: transformers #31891, llama.cpp #13951 and #8444, ollama #13893, TransformerLens #694.
    """
    if clues.scale is not None:
        yield {"scale": clues.scale.value}, replace(call, scale=clues.scale.value)


@mistake(
    "attention",
    text=(
        "Scores are multiplied by {scale}, without the factor of YaRN's mscale_all_dim; the "
        "right factor is {expected_scale}."
    ),
    remedy=("Multiply the softmax scale by M * M, with M = 0.1 * mscale_all_dim * ln(factor) + 1."),
)
def softmax_scale_missing_mscale(call: AttentionCall, clues: AttentionClues) -> Iterator[Wrong]:
    """The softmax scale lacks the square of YaRN's mscale (DeepSeek-V2, V3 and relatives).

    Looks like: scores are too small by 1.6 (DeepSeek-V2) to 1.9 (V3) at every length: attention is
        too flat. A query that sees one key is right.
    Why: these models put YaRN's factor into the softmax scale and not into cosine and sine, and
        generic code takes head_dim ** -0.5.
    Hugging Face: `yarn_apply_mscale(config.rope_parameters, qk_head_dim ** -0.5)`; transformers
        4.57 lacks it in DeepSeek-V2.
    vLLM: `DeepseekV2Attention` multiplies `self.scaling` by `mscale * mscale` of
        `yarn_get_mscale(factor, mscale_all_dim)`.
    llama.cpp: `kq_scale` of deepseek2 has `mscale * mscale`, from
        `<arch>.rope.scaling.yarn_log_multiplier`.
    MLX: `self.scale` of the DeepSeek models in mlx-lm, from `mscale_all_dim`.
    Source: transformers #47435, optimum-intel #1877, mobius #548, prime-rl #2681.
    """
    if clues.mscale is not None:
        scale = call.scale / clues.mscale**2
        yield {"scale": scale}, replace(call, scale=scale)


@mistake(
    "attention",
    text="The queries are not rotated; the keys are.",
    remedy="Rotate the queries by their positions before the scores.",
)
def q_not_rotated(call: AttentionCall, clues: AttentionClues) -> Iterator[Wrong]:
    """The keys are rotated and the queries are not.

    Looks like: scores depend on the position of the key alone; quality falls with length.
    Why: the path of cached decoding rotates new keys only, or a fused projection is split and one
        part is forgotten.
    Hugging Face: `apply_rotary_pos_emb` returns q and k: use both.
    vLLM: `q, k = self.rotary_emb(positions, q, k)`.
    llama.cpp: `ggml_rope_ext` for Qcur as for Kcur, with the same `inp_pos`.
    MLX: `self.rope` for queries and for keys, with the same `offset`.
    Source: TensorRT-LLM #16378.
    """
    if call.q is not None and call.k is not None:
        yield {}, replace(call, q=None)


@mistake(
    "attention",
    text="The keys are not rotated; the queries are.",
    remedy="Rotate the keys by their positions before they are stored.",
)
def k_not_rotated(call: AttentionCall, clues: AttentionClues) -> Iterator[Wrong]:
    """The queries are rotated and the keys are not.

    Looks like: scores depend on the position of the query alone; quality falls with length.
    Why: keys are stored before the rotation, and the code that reads the cache does not rotate.
    Hugging Face: rotate before `past_key_values.update`.
    vLLM: rotate before `self.attn(q, k, v)`, which writes the cache.
    llama.cpp: `ggml_rope_ext` for Kcur before `build_attn`, which stores it.
    MLX: rotate before `cache.update_and_fetch`.
    Source: TensorRT-LLM #16378, streaming-llm #53.
    """
    if call.q is not None and call.k is not None:
        yield {}, replace(call, k=None)


@mistake(
    "attention",
    text="The values are rotated; they must stay as they are.",
    remedy="Rotate queries and keys only.",
)
def v_rotated(call: AttentionCall, clues: AttentionClues) -> Iterator[Wrong]:
    """The values are rotated as the keys are.

    Looks like: the output is wrong from position 1 on, although the log-sum-exp is right.
    Why: the rotation is applied to the joint tensor of keys and values, or of all three.
    Hugging Face: split a fused projection before `apply_rotary_pos_emb`.
    vLLM: `rotary_emb` takes q and k only.
    llama.cpp: no `ggml_rope_ext` for Vcur.
    MLX: no `self.rope` for values.
    Source: labmlai #251.
    """
    if call.v is None and call.k is not None and call.value_dim == call.head_dim:
        yield {}, replace(call, v=call.k)


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
    text="The scores have no soft cap; it must be {expected_softcap}.",
    remedy="Replace scores by softcap * tanh(score / softcap) before the mask.",
)
def softcap_missing(call: AttentionCall, clues: AttentionClues) -> Iterator[Wrong]:
    """The soft cap of the scores is left out (Gemma 2).

    Looks like: small scores are right, large ones are too large.
    Why: the attention kernel has no soft cap, or its argument is not passed.
    Hugging Face: `attn_logit_softcapping` (Gemma 2); "sdpa" warns and leaves it out: use "eager",
        "flex_attention" or FlashAttention.
    vLLM: `logits_soft_cap` of `Attention`.
    llama.cpp: `hparams.attn_soft_cap` and `f_attn_logit_softcapping`, passed as `logit_softcap` to
        `ggml_flash_attn_ext`.
    MLX: `mx.fast.scaled_dot_product_attention` has none: cap the scores as gemma2 of mlx-lm does.
    Source: vllm-metal #665, sglang #33915, sgl-kernel-xpu #491, flash-attention #1016.
    """
    if call.softcap is not None:
        yield {"softcap": None}, replace(call, softcap=None)


@mistake(
    "attention",
    text="The scores have a soft cap of {softcap}; it must be {expected_softcap}.",
    remedy="Use the soft cap of attention that the config has.",
)
def softcap_wrong(call: AttentionCall, clues: AttentionClues) -> Iterator[Wrong]:
    """The scores have another soft cap than the model's.

    Looks like: small scores are right, large ones are too large or too small.
    Why: the cap of the final logits (30 in Gemma 2) is taken for that of attention (50).
    Hugging Face: `attn_logit_softcapping`, not `final_logit_softcapping`.
    vLLM: `logits_soft_cap=config.attn_logit_softcapping`.
    llama.cpp: `f_attn_logit_softcapping`, not `f_final_logit_softcapping`.
    MLX: `attn_logit_softcapping`, not `final_logit_softcapping`.
    Source: [Gemma 2](https://arxiv.org/abs/2408.00118), Gemma Team, 2024, section 2.
    """
    if clues.softcap is not None:
        yield {"softcap": clues.softcap.value}, replace(call, softcap=clues.softcap.value)


@mistake(
    "attention",
    text="The softmax has no sinks.",
    remedy="Add the sink of each head to the sum of the softmax, as a score without a value.",
)
def sinks_missing(call: AttentionCall, clues: AttentionClues) -> Iterator[Wrong]:
    """The sinks of the heads are left out (gpt-oss).

    Looks like: every output is too large, by a factor of its own: the weights sum to 1, and should
        sum to less.
    Why: the kernel has no sinks or gets none, or the checkpoint's `sinks` are not loaded.
    Hugging Face: `self.sinks` of `GptOssAttention`, passed as `s_aux`.
    vLLM: `sinks=` of `Attention`, and a backend that supports them.
    llama.cpp: `ggml_soft_max_add_sinks`, `ggml_flash_attn_ext_add_sinks`.
    MLX: `sinks=` of `mx.fast.scaled_dot_product_attention`.
    Source: vllm-metal #212 and #550, tt-metal #31141.
    """
    if call.sinks is not None:
        yield {}, replace(call, sinks=None)


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


@mistake(
    "attention",
    text=(
        "Query head h reads kv head h mod {expected_kv_heads}; it must read kv head "
        "h div {expected_group}."
    ),
    remedy=(
        "Repeat each kv head for the query heads of its group (repeat_interleave); do not repeat "
        "the heads as a whole (repeat, tile)."
    ),
)
def heads_tiled(call: AttentionCall, clues: AttentionClues) -> Iterator[Wrong]:
    """The kv heads are repeated as a whole, not one by one (GQA).

    Looks like: the first and the last head are right, most others are wrong.
    Why: `repeat` or `tile` is used where `repeat_interleave` is meant; or the converter orders the
        heads of k by the number of query heads.
    Hugging Face: `repeat_kv` is `repeat_interleave` along the heads.
    vLLM: kernels divide the index of the query head by the group.
    llama.cpp: `ggml_mul_mat` broadcasts by division; `ggml_repeat` tiles.
    MLX: `mx.repeat(k, n, axis=1)`, not `mx.tile`; or pass k and v as they are.
    Source: onnx #7274, jax-js #180, axlearn #842, llama.cpp #3364.
    """
    if 1 < call.num_kv_heads < call.num_heads and not call.tiled:
        yield {}, replace(call, tiled=True)


@mistake(
    "attention",
    text="The log-sum-exp is a logarithm to base 2; it must be natural.",
    remedy="Multiply the log-sum-exp by ln 2.",
)
def lse_base_2(call: AttentionCall, clues: AttentionClues) -> Iterator[Wrong]:
    """The log-sum-exp is a logarithm to base 2.

    Looks like: the output is right, the log-sum-exp is 1.4427 times too large. Parts that are
        merged by it get wrong weights.
    Why: kernels compute with exp2, and return log2 of the sum.
    Hugging Face: no attention function returns a log-sum-exp; `softmax_lse` of FlashAttention,
        called directly, is a natural logarithm.
    vLLM: FlashInfer returns base 2, FlashAttention base e; `merge_attn_states` needs base e:
        multiply by ln 2.
    llama.cpp: no function returns a log-sum-exp.
    MLX: no function returns a log-sum-exp.
    Source: flashinfer #2113, vllm #28840 and #47079, sglang #40903.
    """
    if call.has_lse:
        yield {}, replace(call, lse_base=2.0)


@mistake(
    "attention",
    text="The log-sum-exp does not count the sinks.",
    remedy="Add the sink of each head to the sum of which the log-sum-exp is the logarithm.",
)
def lse_without_sink(call: AttentionCall, clues: AttentionClues) -> Iterator[Wrong]:
    """The log-sum-exp is that of the keys alone, although the output has sinks.

    Looks like: the output is right, the log-sum-exp is too small.
    Why: the sink is applied to the output after the kernel, from a log-sum-exp without it.
    Hugging Face: eager attention counts the sink in the softmax, and returns no log-sum-exp.
    vLLM: count the sink once when parts are merged by `merge_attn_states`.
    llama.cpp: no function returns a log-sum-exp.
    MLX: no function returns a log-sum-exp.
    Source: fla #831.
    """
    if call.has_lse and call.sinks is not None:
        yield {}, replace(call, lse_counts_sinks=False)


@mistake(
    "attention",
    text="The log-sum-exp is off by {shift}.",
    remedy="Undo the constant that is subtracted before exp.",
)
def lse_shifted(call: AttentionCall, clues: AttentionClues) -> Iterator[Wrong]:
    """The log-sum-exp is off by a constant.

    Looks like: the output is right, the log-sum-exp differs by the same number everywhere.
    Why: a constant that is subtracted before exp, or the logarithm of a number of parts, is not
        undone.
    Hugging Face: no attention function returns a log-sum-exp; `softmax_lse` of FlashAttention,
        called directly, has the maximum added back.
    vLLM: `merge_attn_states` expects the whole log-sum-exp of each part.
    llama.cpp: no function returns a log-sum-exp.
    MLX: no function returns a log-sum-exp.
    Source: [FlashAttention-2](https://arxiv.org/abs/2307.08691), Dao, 2023, section 3.1.
    """
    if call.has_lse and clues.lse_shift is not None:
        yield {"shift": clues.lse_shift.value}, replace(call, lse_shift=clues.lse_shift.value)

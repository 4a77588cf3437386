"""Mistakes of attention: the scale of the scores, masks, sinks, heads, and the log-sum-exp."""

from collections.abc import Iterator
from dataclasses import replace

from rope_core.diagnosis.attention_call import AttentionCall, AttentionClues, from_zero
from rope_core.diagnosis.mistake import Wrong, mistake


@mistake(
    "attention",
    text="Scores are multiplied by {scale}; the right factor is {expected_scale}.",
    remedy="Multiply the scores by the model's factor before the softmax.",
)
def scale_wrong(call: AttentionCall, clues: AttentionClues) -> Iterator[Wrong]:
    """The scores are multiplied by another factor than the model's.

    Looks like: attention is too flat or too sharp at every position, and grows worse with large
    scores. A query that sees one key is right.
    Why: the model has its own factor (query_pre_attn_scalar, attention_multiplier, 1.0 after
    normalised queries), or a factor of head_dim is taken where heads have two parts (MLA).
    Hugging Face: `self.scaling` of the attention module must reach the attention function.
    vLLM: the argument `scale` of `Attention`.
    llama.cpp: `kq_scale` in the graph of the architecture, `f_attention_scale` in the parameters.
    MLX: the argument `scale` of `mx.fast.scaled_dot_product_attention`.
    Source: Attention Is All You Need, Vaswani et al., 2017, section 3.2.1.
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

    Looks like: attention is too flat by a factor of 1.6 to 1.9 in its scores, at every length. A
    query that sees one key is right.
    Why: these models put YaRN's factor into the softmax scale and not into cosine and sine, and
    generic code takes head_dim ** -0.5.
    Hugging Face: `DeepseekV3Attention.__init__` multiplies `self.scaling` by `mscale * mscale`;
    transformers 4.57 does not for DeepSeek-V2.
    vLLM: `DeepseekV2Attention` multiplies `self.scaling` by `mscale * mscale`.
    llama.cpp: `kq_scale = 1.0f * mscale * mscale / sqrtf(n_embd_head_k)` in the graph of deepseek2.
    MLX: `self.scale` in `DeepseekV3Attention.__init__`.
    Source: transformers issue 47435; optimum-intel issue 1877.
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
    Why: the cache of keys is filled with rotated keys, and the path of the queries has no rotation.
    Hugging Face: `apply_rotary_pos_emb` returns two tensors, and both must be used.
    vLLM: `self.rotary_emb(positions, q, k)` returns both.
    llama.cpp: `ggml_rope_ext` must be called for Qcur as for Kcur.
    MLX: `self.rope` must be called for queries and keys, both with `offset`.
    Source: TensorRT-LLM issue 16378.
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
    Why: keys are stored before the rotation, and the code that reads the cache does not rotate
    them.
    Hugging Face: `past_key_values.update` must get the rotated keys.
    vLLM: the cache holds rotated keys; rotate before `self.attn`.
    llama.cpp: `ggml_rope_ext` must be called for Kcur before the copy to the cache.
    MLX: rotate before `cache.update_and_fetch`.
    Source: TensorRT-LLM issue 16378.
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
    Why: the rotation is applied to the joint tensor of keys and values, or to all three.
    Hugging Face: split a fused projection before `apply_rotary_pos_emb`.
    vLLM: `rotary_emb` takes q and k only.
    llama.cpp: no `ggml_rope_ext` for Vcur.
    MLX: no `self.rope` for values.
    Source: labmlai issue 251.
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

    Looks like: one sequence from the start is right; decoding and later chunks of a prefill see
    the oldest keys only.
    Why: `is_causal=True` of PyTorch aligns the mask top-left.
    Hugging Face: pass a mask, or no mask for one query, to `scaled_dot_product_attention`.
    vLLM: pass `cu_seqlens_k` of the whole sequences; FlashAttention aligns bottom-right since 2.1.
    llama.cpp: `llm_graph_input_attn_kv` compares the positions of cells, not rows.
    MLX: `create_causal_mask(N, offset)` needs the offset of the cache.
    Source: the warning in the documentation of torch.nn.functional.scaled_dot_product_attention.
    """
    q_index = from_zero(call)
    differs = bool((q_index != call.q_index).any())
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
    after another is right.
    Why: `is_causal` is not passed, or a mask of padding replaces the causal one.
    Hugging Face: `is_causal` of the module, or a mask of `create_causal_mask`.
    vLLM: `causal=True` of the attention metadata.
    llama.cpp: `causal_attn` of the context parameters.
    MLX: `mask="causal"` of `mx.fast.scaled_dot_product_attention`.
    Source: Attention Is All You Need, Vaswani et al., 2017, section 3.2.3.
    """
    if call.causal:
        yield {}, replace(call, causal=False)
        if call.window is not None:  # a window without a direction
            yield {}, replace(call, causal=False, window_ahead=call.window - 1)


@mistake(
    "attention",
    text="A query sees a window of {window} keys up to itself; right are {expected_window}.",
    remedy="Hide key j from query i where i - j >= window.",
)
def window_off_by_one(call: AttentionCall, clues: AttentionClues) -> Iterator[Wrong]:
    """The sliding window has one key more or one key less than the model's.

    Looks like: sequences that fit into the window are right; later tokens are slightly off.
    Why: libraries count differently: a window counts the query's own key or not, and the comparison
    is `<` or `<=`.
    Hugging Face: `sliding_window` keys, with the query's own: i - j < sliding_window.
    vLLM: `per_layer_sliding_window` of `Attention`; FlashAttention gets (window - 1, 0).
    llama.cpp: `llama_hparams::is_masked_swa`: pos_i - pos_j >= n_swa is hidden.
    MLX: `create_causal_mask(window_size=...)`; RotatingKVCache keeps `max_size` keys.
    Source: FlashAttention, `window_size` of `flash_attn_func`: the keys before a query.
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
    Hugging Face: `layer_types` of the config says which layers have a window.
    vLLM: `per_layer_sliding_window` of `Attention`.
    llama.cpp: `set_swa_pattern` and `n_swa` in the parameters of the architecture.
    MLX: a mask for each type of layer; `RotatingKVCache` for those with a window.
    Source: Longformer, Beltagy et al., 2020; Mistral 7B, Jiang et al., 2023.
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
    Why: layers with chunks are served as layers without.
    Hugging Face: `attention_chunk_size`, and `layer_types` of `chunked_attention`.
    vLLM: `ChunkedLocalAttention` in `Llama4Attention`.
    llama.cpp: `n_attn_chunk`, LLAMA_SWA_TYPE_CHUNKED.
    MLX: `ChunkedKVCache`.
    Source: transformers, `create_chunked_causal_mask`.
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
    Why: fused attention kernels without a soft cap are used.
    Hugging Face: `attn_logit_softcapping`; sdpa does not apply it, use eager or flex attention.
    vLLM: `logits_soft_cap` of `Attention`.
    llama.cpp: `f_attn_logit_softcapping`, `hparams.attn_soft_cap`.
    MLX: `attn_logit_softcapping` in gemma2.
    Source: Gemma 2, Gemma Team, 2024, section 2.
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
    Why: the soft cap of the logits (30) is taken for that of attention (50), or a default.
    Hugging Face: `attn_logit_softcapping`, not `final_logit_softcapping`.
    vLLM: `logits_soft_cap` of `Attention`.
    llama.cpp: `f_attn_logit_softcapping`, not `f_final_logit_softcapping`.
    MLX: `attn_logit_softcapping`, not `final_logit_softcapping`.
    Source: Gemma 2, Gemma Team, 2024, section 2.
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

    Looks like: every output is too large by a factor of its own; the weights sum to 1.
    Why: the attention function has no sinks, or the checkpoint's `sinks` are not loaded.
    Hugging Face: `sinks` of `GptOssAttention`, `s_aux` of the attention function.
    vLLM: `sinks` of `Attention`; the backend must support them.
    llama.cpp: `ggml_soft_max_add_sinks`, `ggml_flash_attn_ext_add_sinks`.
    MLX: `sinks` of `mx.fast.scaled_dot_product_attention`.
    Source: gpt-oss model card, OpenAI, 2025.
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
    Why: the kernel takes a causal flag or a mask, and the flag wins.
    Hugging Face: pass `attention_mask`; flash attention needs the mask of padding, not a 4-D one.
    vLLM: there is no mask; leave padding out of the batch.
    llama.cpp: `llama_batch` has sequence ids in place of a mask.
    MLX: `mask` of `mx.fast.scaled_dot_product_attention`.
    Source: transformers issues 22161 and 26072.
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

    Looks like: the first head and the last head are right, most others are wrong.
    Why: `repeat` or `tile` is used where `repeat_interleave` is meant.
    Hugging Face: `repeat_kv` expands a new axis after the kv heads.
    vLLM: query heads of a group are neighbours; kernels divide the head by the group.
    llama.cpp: `ggml_mul_mat` broadcasts by division; `ggml_repeat` tiles.
    MLX: `mx.repeat`, not `mx.tile`; or leave the heads to `scaled_dot_product_attention`.
    Source: GQA, Ainslie et al., 2023.
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

    Looks like: the output is right, the log-sum-exp is too large by 1.4427.
    Why: kernels compute with exp2, and return their sum without the last step.
    Hugging Face: attention functions of Hugging Face return no log-sum-exp.
    vLLM: FlashInfer returns base 2, FlashAttention base e; `merge_attn_states` needs base e.
    llama.cpp: the CUDA kernels of flash attention keep the sum, not its logarithm.
    MLX: no function returns a log-sum-exp.
    Source: FlashInfer, `return_lse` of `single_prefill_with_kv_cache`.
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
    Why: the sink is applied to the output after the kernel, from the log-sum-exp without it.
    Hugging Face: attention functions of Hugging Face return no log-sum-exp.
    vLLM: the sink must be counted once when parts are merged.
    llama.cpp: the sink is counted in the last pass of flash attention.
    MLX: no function returns a log-sum-exp.
    Source: gpt-oss model card, OpenAI, 2025.
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
    Why: a constant that was subtracted before exp, or the logarithm of a number of parts, is not
    undone.
    Hugging Face: attention functions of Hugging Face return no log-sum-exp.
    vLLM: `merge_attn_states` expects the log-sum-exp of each part on its own.
    llama.cpp: the offset of the maximum in flash attention must be undone.
    MLX: no function returns a log-sum-exp.
    Source: FlashAttention-2, Dao, 2023, section 3.1.
    """
    if call.has_lse and clues.lse_shift is not None:
        yield {"shift": clues.lse_shift.value}, replace(call, lse_shift=clues.lse_shift.value)

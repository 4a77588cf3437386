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

"""Mistakes of the factor of cosine and sine."""

from collections.abc import Iterator
from dataclasses import replace

from rope_core.diagnosis.calls import Clues, RotaryCall
from rope_core.diagnosis.mistake import Number, Wrong, mistake
from rope_core.diagnosis.mistakes.changes import each, gain

NEUTRAL = 1e-3
"""Gains that differ by less are the same."""


def with_gain(call: RotaryCall, value: float) -> RotaryCall:
    """Return the call with another factor of cosine and sine."""
    return replace(call, gain=value)


@mistake(
    "rotation",
    "table",
    "attention",
    text="Cosine and sine lack their factor {expected_gain}.",
    remedy="Multiply cosine and sine by the attention scaling of the variant.",
)
def gain_missing(call: RotaryCall, clues: Clues) -> Iterator[Wrong]:
    """Cosine and sine are not multiplied by the attention scaling.

    Looks like: every rotated channel is too small by one factor, at position 0 as everywhere.
    Why: YaRN and LongRoPE give frequencies and a factor of cosine and sine, and the code uses the
        frequencies only.
    Hugging Face: multiply cosine and sine by `self.attention_scaling` of the rotary embedding.
    vLLM: `self.mscale` of `YaRNScalingRotaryEmbedding` is in its cache of cosine and sine.
    llama.cpp: `ggml_rope_ext` multiplies by `attn_factor * (1 + 0.1 * ln(1 / freq_scale))` if
        `ext_factor` is not 0, and by `attn_factor` alone otherwise.
    MLX: `YarnRoPE` and `SuScaledRoPE` multiply their input; `mx.fast.rope` alone does not.
    Source: llama.cpp #7118 and #17945, atlas #342.
    """
    if gain(call) != 1:
        yield from each("gain", (1.0,), call, lambda value: with_gain(call, value))


@mistake(
    "rotation",
    "table",
    "attention",
    text="Cosine and sine have their factor {expected_gain} twice.",
    remedy="Apply the attention scaling once: in the tables or in the rotation.",
)
def gain_twice(call: RotaryCall, clues: Clues) -> Iterator[Wrong]:
    """The attention scaling is applied to the tables, and again elsewhere.

    Looks like: every rotated channel is too large by one factor, at position 0 as everywhere.
    Why: the tables have the factor, and the rotation or the scale of the scores gets it again.
    Hugging Face: cosine and sine have it; `apply_rotary_pos_emb` does not apply it.
    vLLM: the cache of cosine and sine has it.
    llama.cpp: `ggml_rope_ext` adds `1 + 0.1 * ln(factor)` itself if `ext_factor` is not 0: divide
        `attn_factor`, or `--yarn-attn-factor`, by it.
    MLX: `YarnRoPE` multiplies its input by `self.mscale`: do not scale q or k yourself.
    Source: TensorRT-LLM #16378, llama.cpp #17945.
    """
    if gain(call) != 1:
        yield from each("gain", (gain(call) ** 2,), call, lambda value: with_gain(call, value))


@mistake(
    "rotation",
    "table",
    "attention",
    text="Cosine and sine have the factor {gain} instead of {expected_gain}.",
    remedy="Compute the attention scaling as the variant does; of YaRN it is M(factor, mscale) /"
    " M(factor, mscale_all_dim) if both are given, M(factor, 1) otherwise.",
    number=Number(parameter="gain", value=gain, vary=with_gain, starts=lambda call: (gain(call),)),
)
def gain_wrong(call: RotaryCall, clues: Clues) -> Iterator[Wrong]:
    """Cosine and sine are multiplied by another number.

    Looks like: every rotated channel is wrong by one factor, at position 0 as everywhere.
    Why: one of mscale and mscale_all_dim is used in place of their ratio, or attention_factor of
        the config is not read.
    Hugging Face: `attention_factor` of the block; without it `get_mscale(factor, mscale) /
        get_mscale(factor, mscale_all_dim)` in `_compute_yarn_parameters`.
    vLLM: `get_rope` passes `attn_factor`, not `attention_factor`, to YaRN; `mscale` and
        `mscale_all_dim` to rope_type "deepseek_yarn".
    llama.cpp: `<arch>.rope.scaling.attn_factor` and `.yarn_log_multiplier`, `--yarn-attn-factor`.
    MLX: `attention_factor`, `mscale` and `mscale_all_dim` of `scaling_config`.
    Source: llama.cpp #7118 and #17945, atlas #342.
    """
    if clues.gain is None or not call.times:
        return
    found = clues.gain ** (1 / call.times)
    if abs(found - gain(call)) > NEUTRAL * abs(gain(call)):
        yield from each("gain", (found,), call, lambda value: with_gain(call, value))

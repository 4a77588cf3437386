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
    Why: YaRN and LongRoPE return frequencies and a factor, and the code uses the frequencies only.
    Hugging Face: self.attention_scaling of the rotary embedding.
    vLLM: mscale of YaRNScalingRotaryEmbedding, in the cache of cosine and sine.
    llama.cpp: <arch>.rope.scaling.attn_factor, --yarn-attn-factor.
    MLX: mscale of YarnRoPE.
    Source: imp #880, llama.cpp #7118 and #17945, atlas #342.
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
    Why: the tables have the factor already, and the rotation or the scores get it again.
    Hugging Face: the tables have it; apply_rotary_pos_emb does not apply it.
    vLLM: the cache of cosine and sine has it.
    llama.cpp: ggml_rope_ext computes a part of it from ext_factor: pass the rest as attn_factor.
    MLX: YarnRoPE multiplies its input by mscale.
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
    Why: one of mscale and mscale_all_dim is used instead of the ratio of both, or attention_factor
        of the config is not read.
    Hugging Face: attention_factor of the block, or get_mscale in _compute_yarn_parameters.
    vLLM: yarn_get_mscale in DeepseekScalingRotaryEmbedding.
    llama.cpp: --yarn-attn-factor, <arch>.rope.scaling.yarn_log_multiplier.
    MLX: yarn_get_mscale of the model file.
    Source: imp #880, llama.cpp #7118 and #17945, atlas #342.
    """
    if clues.gain is not None and abs(clues.gain - gain(call)) > NEUTRAL * abs(gain(call)):
        yield from each("gain", (clues.gain,), call, lambda value: with_gain(call, value))

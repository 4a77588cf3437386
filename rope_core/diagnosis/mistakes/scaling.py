"""Mistakes of the scaling of frequencies: the variant of a rope, and its parameters."""

from collections.abc import Iterator
from typing import Any

from rope_core.diagnosis.calls import Clues, RotaryCall
from rope_core.diagnosis.mistake import Number, Wrong, mistake
from rope_core.diagnosis.mistakes.base import EVERY
from rope_core.diagnosis.mistakes.changes import (
    each,
    parameter,
    powers_of_two,
    with_parameters,
    with_rope,
)
from rope_core.frequencies import VARIANTS

UNSCALED = ("default", "xpos", "inv_freq")
FACTORS = {
    **dict.fromkeys(("linear", "ntk", "ntk_mixed", "dynamic", "yarn", "llama3"), "factor"),
    **{"ntk_alpha": "alpha", "longrope": "factor", "proportional": "factor"},
}
"""The parameter that says by how much a variant scales."""

ORIGINAL = "original_max_position_embeddings"
LONGEST = "max_position_embeddings"
OTHER_TYPES = ("linear", "ntk", "dynamic", "yarn", "llama3")
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
BETAS = {"beta_fast": 32.0, "beta_slow": 1.0}


def factor_of(call: RotaryCall) -> float | None:
    """Return by how much the variant scales; None for variants without such a parameter."""
    name = FACTORS.get(call.rope.rope_type)
    if name is None:
        return None
    value = parameter(call, name)
    original, longest = parameter(call, ORIGINAL), parameter(call, LONGEST)
    if value is None and original and longest:
        value = longest / original
    return 1.0 if value is None else float(value)


def _fitted_factor(call: RotaryCall) -> float | None:
    # the frequencies of longrope do not depend on it, those of dynamic only from a length on
    return None if call.rope.rope_type == "longrope" else factor_of(call)


def with_factor(call: RotaryCall, factor: float) -> RotaryCall:
    """Return the call with another factor of the variant."""
    return with_parameters(call, **{FACTORS[call.rope.rope_type]: factor})


FACTOR = Number(
    parameter="factor",
    value=_fitted_factor,
    vary=with_factor,
    starts=lambda call: (
        (2.0**power for power in range(9))
        if call.rope.rope_type != "ntk_alpha"
        else (3.0**power for power in range(10))
    ),
)


@mistake(
    *EVERY,
    text="The {rope_type} scaling of the config has no effect: the frequencies are plain.",
    remedy="Apply rope_parameters (rope_scaling in older files) of the config; the key of the"
    " variant is rope_type, or type in older files.",
)
def scaling_ignored(call: RotaryCall, clues: Clues) -> Iterator[Wrong]:
    """The scaling block of the config has no effect.

    Looks like: fast pairs are right and slow pairs turn too fast, so that short prompts look well
        and long ones do not; with YaRN and LongRoPE all values are too small by a constant.
    Why: the code has no branch for the variant, reads rope_scaling where the file has
        rope_parameters, or type where the file has rope_type.
    Hugging Face: pass config to the rotary embedding; an override rope_scaling=None removes the
        block.
    vLLM: pass rope_parameters (older versions: rope_scaling) to get_rope.
    llama.cpp: llama3 needs the tensor rope_freqs of the GGUF file; the others need
        <arch>.rope.scaling.type, which --rope-scaling overrides.
    MLX: build the rotary embedding with initialize_rope(..., scaling_config=args.rope_scaling).
    Source: mlx-vlm #1710, ANEForge #58, shainet #111, omlx #3347, TensorRT-Model-Connect #399.
    """
    rope = call.rope
    if rope.rope_type not in UNSCALED:
        plain = {"rope_type": "default", "parameters": ()}
        yield from each("rope_type", (rope.rope_type,), call, lambda _: with_rope(call, **plain))


@mistake(
    *EVERY,
    text="The frequencies are those of {rope_type} scaling instead of {expected_rope_type}.",
    remedy="Use the variant that rope_type (type in older files) of the config names.",
)
def scaling_other_type(call: RotaryCall, clues: Clues) -> Iterator[Wrong]:
    """Another variant is computed with the numbers of the config.

    Looks like: the slowest pairs are right or nearly so, since most variants divide them by the
        factor, and those between are wrong.
    Why: an unknown rope_type falls through to linear or dynamic scaling, which need only a factor.
    Hugging Face: ROPE_INIT_FUNCTIONS has the variants by rope_type.
    vLLM: get_rope chooses the class by rope_type; check that it is not overwritten by hf_overrides.
    llama.cpp: <arch>.rope.scaling.type is linear or yarn; llama3 and longrope are tensors of
        factors.
    MLX: initialize_rope chooses the class by type or rope_type.
    Source: vllm #10293 and #9250, ms-swift #2340, LightLLM #1129.
    """
    rope = call.rope
    if rope.rope_type in UNSCALED:
        return
    given = clues.resolved.parameters if clues.resolved is not None else {}
    known: dict[str, Any] = {**LLAMA3, **given, **dict(rope.parameters), "factor": factor_of(call)}
    last = int(call.positions.max()) + 1 if call.positions.numel() else 0
    known["length"] = parameter(call, "length") or last
    if known.get(LONGEST) is None and clues.resolved is not None and clues.resolved.lengths.allowed:
        known[LONGEST] = clues.resolved.lengths.allowed

    def change(other: str) -> RotaryCall:
        names = VARIANTS[other].parameters
        computed = ("attention_factor", "mscale", "mscale_all_dim")
        values = {k: v for k, v in known.items() if k in names and k not in computed}
        return with_rope(call, rope_type=other, parameters=tuple(values.items()))

    others = [other for other in OTHER_TYPES if other != rope.rope_type and known["factor"]]
    yield from each("rope_type", others, call, change)


@mistake(
    *EVERY,
    text="The factor of the {expected_rope_type} scaling is {factor} instead of {expected_factor}.",
    remedy="Take factor from the scaling block of this config, not from another model's.",
    number=FACTOR,
)
def factor_wrong(call: RotaryCall, clues: Clues) -> Iterator[Wrong]:
    """The variant is right and its factor is not.

    Looks like: fast pairs are right, and slow pairs are wrong by one ratio.
    Why: the factor of another model of the family is written in the code (8 for Llama 3.1, 32 for
        Llama 3.2), or is computed from the lengths where the config has one.
    Hugging Face: rope_parameters["factor"].
    vLLM: the same; hf_overrides may set another.
    llama.cpp: <arch>.rope.scaling.factor, --rope-scale; llama3 has the factor in rope_freqs.
    MLX: scaling_config["factor"].
    Source: unsloth #6925.
    """
    factor = factor_of(call)
    if factor is not None:
        values = (1.0, *powers_of_two(1, 6), 40.0)
        if call.rope.rope_type == "longrope":  # any factor gives a gain, and any gain has a factor
            values = (*powers_of_two(1, 7), 40.0)
        yield from each("factor", values, call, lambda value: with_factor(call, value))


def _original(call: RotaryCall) -> float | None:
    return parameter(call, ORIGINAL) if call.rope.rope_type in ("yarn", "llama3") else None


def with_original(call: RotaryCall, length: float) -> RotaryCall:
    """Return the call with another trained length."""
    return with_parameters(call, **{ORIGINAL: max(1, round(length))})


@mistake(
    *EVERY,
    text="The trained length is taken as {original_max_position_embeddings} instead of"
    " {expected_original_max_position_embeddings}.",
    remedy="Use original_max_position_embeddings of the scaling block; max_position_embeddings is"
    " the length after scaling in most files.",
    number=Number(
        parameter=ORIGINAL,
        value=_original,
        vary=with_original,
        starts=lambda call: (256 * 2.0**power for power in range(15)),
        is_whole=True,
    ),
)
def original_length_wrong(call: RotaryCall, clues: Clues) -> Iterator[Wrong]:
    """The bounds of the variant follow from another trained length.

    Looks like: the fastest and the slowest pairs are right, and those between are wrong.
    Why: max_position_embeddings is used for original_max_position_embeddings; model cards differ in
        which of the two is the trained length.
    Hugging Face: rope_parameters["original_max_position_embeddings"], or the key of that name
        outside of the block.
    vLLM: the same key; max_model_len is another number.
    llama.cpp: <arch>.rope.scaling.original_context_length, --yarn-orig-ctx.
    MLX: scaling_config["original_max_position_embeddings"].
    Source: vllm #8793, #10293 and #16757, RULER #56.
    """
    if ORIGINAL not in dict(call.rope.parameters):
        return
    given = clues.resolved.parameters if clues.resolved is not None else {}
    longest = parameter(call, LONGEST) or given.get(LONGEST)
    allowed = clues.resolved.lengths.allowed if clues.resolved is not None else None
    values = dict.fromkeys(int(v) for v in (longest, allowed, *powers_of_two(8, 21)) if v)
    if call.rope.rope_type == "longrope":  # only the gain depends on it
        values = dict.fromkeys(int(v) for v in (longest, allowed) if v)
    yield from each(ORIGINAL, values, call, lambda value: with_original(call, value))


@mistake(
    *EVERY,
    text="truncate of YaRN, which rounds the bounds of the ramp to whole pairs, is {truncate} instead"
    " of {expected_truncate}.",
    remedy="Follow truncate of the scaling block: true by default, false for gpt-oss.",
)
def truncate_wrong(call: RotaryCall, clues: Clues) -> Iterator[Wrong]:
    """The bounds of YaRN's ramp are rounded to whole pairs, or are not.

    Looks like: only the blended pairs are wrong, by a few percent.
    Why: gpt-oss has "truncate": false, and older implementations always round.
    Hugging Face: rope_parameters["truncate"]; transformers 5.23 does not read it in a nested block.
    vLLM: YaRNScalingRotaryEmbedding takes truncate.
    llama.cpp: ggml_rope_yarn_corr_dims always rounds.
    MLX: YarnRoPE of the model file.
    Source: vllm #27722 and #28244, sglang #14270, transformers #42189.
    """
    if call.rope.rope_type == "yarn":
        is_truncated = dict(call.rope.parameters).get("truncate", True)
        yield from each(
            "truncate",
            (not is_truncated,),
            call,
            lambda value: with_parameters(call, truncate=value),
        )


@mistake(
    *EVERY,
    text="YaRN's beta_fast is {beta_fast} and beta_slow is {beta_slow}: they are exchanged.",
    remedy="beta_fast is the larger number, 32 by default, and beta_slow the smaller, 1.",
)
def beta_swapped(call: RotaryCall, clues: Clues) -> Iterator[Wrong]:
    """YaRN's two bounds are exchanged.

    Looks like: fast pairs are divided by the factor and slow ones are kept, the reverse of what is
        right.
    Why: the two are positional arguments in some functions, in different orders.
    Hugging Face: rope_parameters["beta_fast"], rope_parameters["beta_slow"].
    vLLM: the keyword arguments beta_fast and beta_slow.
    llama.cpp: --yarn-beta-fast, --yarn-beta-slow.
    MLX: scaling_config["beta_fast"], scaling_config["beta_slow"].
    Source: Peng et al., 2023, "YaRN", section 3.2.
    """
    if call.rope.rope_type != "yarn":
        return
    fast, slow = (parameter(call, name) or value for name, value in BETAS.items())
    for found, wrong in each(
        "beta_fast",
        (slow,),
        call,
        lambda value: with_parameters(call, beta_fast=value, beta_slow=fast),
    ):
        yield {**found, "beta_slow": fast}, wrong


@mistake(
    *EVERY,
    text="The frequencies are divided by {list}_factor; for a call of this length the other list is"
    " right.",
    remedy="Choose the list by the length of the call: long_factor above"
    " original_max_position_embeddings, and compute cached keys again at the switch.",
)
def longrope_other_list(call: RotaryCall, clues: Clues) -> Iterator[Wrong]:
    """LongRoPE's short factors are used where the long ones are right, or the reverse.

    Looks like: all pairs are wrong, each by its own ratio.
    Why: the list is chosen by the capacity of the cache instead of the length of the call, or once
        when the model is loaded.
    Hugging Face: longrope_frequency_update chooses by the largest position of the call.
    vLLM: Phi3LongRoPEScaledRotaryEmbedding chooses by max_model_len.
    llama.cpp: the tensors rope_factors_short and rope_factors_long are chosen by the context per
        sequence.
    MLX: SuScaledRoPE takes the long factors only.
    Source: llama.cpp #24823 and #24875, mlxcel #1358, lalamo #325, uzu #604, mlc-llm #3375.
    """
    if call.rope.rope_type == "longrope":
        original = parameter(call, ORIGINAL)
        is_long = (parameter(call, "length") or 0) > original
        length = 0 if is_long else original + 1
        yield from each(
            "list",
            ("short" if is_long else "long",),
            call,
            lambda _: with_parameters(call, length=length),
        )

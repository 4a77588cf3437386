"""Mistakes of the scaling of frequencies: the variant of a rope, and its parameters."""

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from rope_core.diagnosis.calls import Clues, RotaryCall
from rope_core.diagnosis.mistake import EVERY, Number, Wrong, mistake
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
    "ntk_alpha": "alpha",
    "longrope": "factor",
    "proportional": "factor",
}
"""The parameter that says by how much a variant scales."""

SHORTEST, OCTAVES, MOST_LENGTHS = 256.0, 14, 400
"""Trained lengths that are looked for: the least, how many octaves, how many at most."""

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

    Looks like: fast pairs are right and slow pairs turn too fast, so short prompts look well and
        long ones do not. With YaRN and LongRoPE all values are also too small by one factor.
    Why: the code has no branch for the variant, reads rope_scaling where the file has
        rope_parameters, or reads `type` where the file has `rope_type`.
    Hugging Face: build the rotary embedding from the config; an override `rope_scaling=None`
        removes the block.
    vLLM: pass `rope_parameters` (older versions: `rope_scaling`) to `get_rope`.
    llama.cpp: llama3 needs the tensor `rope_freqs.weight`, LongRoPE `rope_factors_long.weight` and
        `rope_factors_short.weight`; linear and YaRN need `<arch>.rope.scaling.type`, which
        `--rope-scaling` overrides.
    MLX: pass `scaling_config=args.rope_scaling` to `initialize_rope`; `nn.RoPE` alone has none.
    Source: mlx-vlm #1710, ANEForge #58, shainet #111, omlx #3347.
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

    Looks like: the slowest pairs are right or nearly so, because most variants divide them by the
        factor, and the pairs between are wrong.
    Why: an unknown rope_type falls through to linear or dynamic scaling, which need a factor only.
    Hugging Face: `ROPE_INIT_FUNCTIONS[rope_parameters["rope_type"]]`.
    vLLM: `get_rope` takes the class by `rope_type`; "su" and "mrope" are older names.
    llama.cpp: `<arch>.rope.scaling.type` is none, linear, yarn or longrope; `--rope-scaling`
        overrides it. llama3 is a tensor, not a type.
    MLX: `initialize_rope` takes the class by `type`, otherwise by `rope_type`.
    Source: vllm #10293 and #9250, transformers #33401, ms-swift #2340, LightLLM #1129.
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
    if known.get(ORIGINAL) is None:
        known[ORIGINAL] = known.get(LONGEST)

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
    Why: the factor of another model of the family is written into the code (8 of Llama 3.1 for 32
        of Llama 3.2), or is computed from the lengths although the config has one.
    Hugging Face: `rope_parameters["factor"]`.
    vLLM: `rope_parameters["factor"]`; check `--hf-overrides`.
    llama.cpp: `<arch>.rope.scaling.factor`, `--rope-scale`; llama3 has it in `rope_freqs.weight`.
    MLX: `scaling_config["factor"]`.
    Source: unsloth #6925, llama.cpp #14367.
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


def trained_lengths(call: RotaryCall) -> list[float]:
    """Return trained lengths that differ little from the next.

    YaRN rounds the bounds of its ramp to whole pairs: of each two bounds there is one length.
    """
    rope = call.rope
    lengths = [SHORTEST * 2.0 ** (step / 24) for step in range(24 * OCTAVES + 1)]
    if rope.rope_type != "yarn" or dict(rope.parameters).get("truncate") is False:
        return lengths
    pairs = len(rope.frequency_table.inv_freq)
    turns = [2 * math.pi * (parameter(call, name) or value) for name, value in BETAS.items()]
    first, last = math.log(lengths[0]), math.log(lengths[-1])
    steps = (math.log(rope.theta) * k / pairs for k in range(2 * pairs))
    bounds = (math.log(one) + step for step in steps for one in turns)
    ends = [first, *sorted(bound for bound in bounds if first < bound < last), last]
    middles = [float(round(math.exp((a + b) / 2))) for a, b in pairwise(ends)]
    return middles if len(middles) <= MOST_LENGTHS else lengths


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
        starts=trained_lengths,
        is_whole=True,
    ),
)
def original_length_wrong(call: RotaryCall, clues: Clues) -> Iterator[Wrong]:
    """The bounds of the variant follow from another trained length.

    Looks like: the fastest and the slowest pairs are right, and those between are wrong.
    Why: `max_position_embeddings` is taken for `original_max_position_embeddings`. Which of them is
        the trained length differs between model cards.
    Hugging Face: `rope_parameters["original_max_position_embeddings"]`; if that is missing,
        version 5 takes `max_position_embeddings`. Phi-3 has the key outside of the block.
    vLLM: the same key; `--max-model-len` is another number.
    llama.cpp: `<arch>.rope.scaling.original_context_length`, `--yarn-orig-ctx`.
    MLX: `scaling_config["original_max_position_embeddings"]`; the defaults of `YarnRoPE` and
        `Llama3RoPE` are 4096 and 8192.
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
    text="YaRN's truncate, which rounds the bounds of the ramp to whole pairs, is {truncate}.",
    remedy="Follow truncate of the scaling block: true by default, false for gpt-oss.",
)
def truncate_wrong(call: RotaryCall, clues: Clues) -> Iterator[Wrong]:
    """The bounds of YaRN's ramp are rounded to whole pairs, or are not.

    Looks like: only the blended pairs are wrong, by some percent.
    Why: YaRN rounds the bounds of its ramp to whole pairs; gpt-oss says `"truncate": false`, and
        older code always rounds.
    Hugging Face: `rope_parameters["truncate"]`, true by default; 5.23 does not read it in a block
        that is nested by layer type.
    vLLM: `get_rope` passes `truncate` of `rope_parameters` to `YaRNScalingRotaryEmbedding`.
    llama.cpp: `ggml_rope_yarn_corr_dims` always rounds.
    MLX: `YarnRoPE` of mlx-lm always rounds.
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

    Looks like: fast pairs are divided by the factor and slow pairs are kept, the reverse of what is
        right: short prompts are wrong already.
    Why: `beta_fast` and `beta_slow` are positional arguments, and code bases differ in their order.
    Hugging Face: `rope_parameters["beta_fast"]` is 32 by default, `["beta_slow"]` is 1.
    vLLM: the keyword arguments `beta_fast` and `beta_slow`.
    llama.cpp: `ggml_rope_ext(..., beta_fast, beta_slow)`; `--yarn-beta-fast`, `--yarn-beta-slow`.
    MLX: the keyword arguments `beta_fast` and `beta_slow` of `YarnRoPE`.
    Source: [YaRN](https://arxiv.org/abs/2309.00071), Peng et al., 2023, section 3.2.
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

    Looks like: all pairs are wrong, each by a ratio of its own.
    Why: the list is chosen by the capacity of the cache, or once when the model is loaded, and not
        by the length of the call.
    Hugging Face: `longrope_frequency_update` takes the long list if the largest position of the
        call passes the trained length; cached keys must be computed again at the switch.
    vLLM: `use_long_rope` is `max_model_len > original_max_position_embeddings`, at every length:
        set `--max-model-len` to the trained length for short calls.
    llama.cpp: `get_rope_factors` compares the context per sequence (`--ctx-size`) with
        `<arch>.rope.scaling.original_context_length`.
    MLX: `SuScaledRoPE` always takes the long list.
    Source: llama.cpp #24823 and #24875, mlxcel #1358, lalamo #325, uzu #604, mlc-llm #3375.
    """
    if call.rope.rope_type == "longrope":
        original = parameter(call, ORIGINAL)
        is_long = (parameter(call, "length") or 0) > original
        length = original if is_long else original + 1
        yield from each(
            "list",
            ("short" if is_long else "long",),
            call,
            lambda _: with_parameters(call, length=length),
        )

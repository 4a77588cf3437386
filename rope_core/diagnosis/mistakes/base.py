"""Mistakes of the base of the frequencies and of the width of their exponents."""

from collections.abc import Iterator
from typing import Any

import torch

from rope_core.config import DEFAULT_THETA
from rope_core.diagnosis.calls import Clues, RotaryCall
from rope_core.diagnosis.mistake import EVERY, Number, Wrong, mistake
from rope_core.diagnosis.mistakes.changes import each, with_rope
from rope_core.frequencies import VARIANTS

BASES = (10_000.0, 500_000.0, 1_000_000.0)
"""Bases that code has by default."""


LISTED = ("ntk", "ntk_alpha", "dynamic", "proportional")
"""Variants whose factor depends on the width of the exponents, or whose width may be far away."""


def _base(call: RotaryCall) -> float | None:
    has_base = call.rope.rope_type != "inv_freq" and call.rope.learned is None
    return call.rope.theta if has_base else None


BASE = Number(
    parameter="theta",
    value=_base,
    vary=lambda call, theta: with_rope(call, theta=theta),
    starts=lambda call: (*BASES, *(100 * 2.0**power for power in range(25))),
)


@mistake(
    *EVERY,
    text="The frequencies have base {theta} instead of {expected_theta}.",
    remedy="Read the base from the config: rope_parameters.rope_theta in files of transformers 5,"
    " rope_theta in older ones; do not rely on the default of the code.",
    number=BASE,
)
def wrong_base(call: RotaryCall, clues: Clues) -> Iterator[Wrong]:
    """The frequencies are powers of another base.

    Looks like: position 0 and the fastest pair are right; the error grows with the position and
        with the index of the pair.
    Why: transformers 5 moved rope_theta from the top level of config.json into rope_parameters,
        and `getattr(config, "rope_theta", 10000)` silently takes its default.
    Hugging Face: `config.rope_parameters["rope_theta"]`; before version 5 `config.rope_theta`.
    vLLM: pass `rope_parameters=config.rope_parameters` to `get_rope`, whose default is 10000;
        check `--hf-overrides`.
    llama.cpp: the key `<arch>.rope.freq_base` of the GGUF file; `--rope-freq-base` overrides it.
    MLX: pass `args.rope_theta` as `base` to `initialize_rope` or `nn.RoPE`.
    Source: vllm #28542 and #29700, sglang #14745, DeepSpeed #8341, onnxruntime-genai #2609.
    """
    if _base(call) is not None:
        yield from each("theta", BASES, call, lambda theta: with_rope(call, theta=theta))


@mistake(
    *EVERY,
    text="The exponents of the frequencies are divided by {width} instead of {expected_width}.",
    remedy="Divide the exponents by the number of channels that rotate, rotary_dim, or by the head"
    " for models with proportional frequencies (Gemma 4).",
)
def exponent_width_wrong(call: RotaryCall, clues: Clues) -> Iterator[Wrong]:
    """The denominator of the exponents is the width of the head, or of the rotated part.

    Looks like: only models that rotate a part of each head are affected: the fastest pair is right,
        and the slowest turns far too fast or too slowly.
    Why: `theta ** (-2i / dim)` has dim = rotary_dim in ordinary partial rotation and dim = head_dim
        in proportional rotation (Gemma 4); code of one is used for the other.
    Hugging Face: `compute_default_rope_parameters` divides by `int(head_dim *
        partial_rotary_factor)`, rope_type "proportional" by `head_dim`.
    vLLM: the classes divide by `rotary_dim`; Gemma 4 has a class of its own.
    llama.cpp: `n_dims` of `ggml_rope_ext` is the denominator; proportional rotation needs
        frequency factors.
    MLX: `dims` of `mx.fast.rope` is the denominator; `ProportionalRoPE` divides by the head.
    Source: Megatron-Bridge #4195, #4196 and #4916, pie #602 and #603.
    """
    rope = call.rope
    width = rope.frequency_dim or rope.rotary_dim
    rotated = rope.rotary_dim
    if rope.rope_type == "proportional":
        share = dict(rope.parameters).get("partial_rotary_factor", 1.0)
        rotated = 2 * int(float(share) * width // 2)  # type: ignore[arg-type]
    if _base(call) is None or rope.axes in ("axial", "axial_ntk", "axial_alternating"):
        return
    widths = [other for other in dict.fromkeys((rope.head_dim, rotated)) if other not in (0, width)]
    yield from each("width", widths, call, lambda other: _with_width(call, width, other))


def _with_width(call: RotaryCall, width: int, other: int) -> RotaryCall:
    """Return the call with exponents that are divided by `other`.

    theta ** (-2i / other) = (theta ** (width / other)) ** (-2i / width), so that another base does
    it. Variants that raise a factor to a power of the width have the frequencies as a list.

    Raises:
        ConfigError: no rope has these frequencies.
    """
    rope = call.rope
    if rope.rope_type not in LISTED or rope.axes is not None:
        return with_rope(call, theta=float(rope.theta ** (width / other)))
    parameters: dict[str, Any] = dict(rope.parameters)
    if rope.rope_type == "proportional":  # the pairs that turn are those of the right rope
        parameters["partial_rotary_factor"] = 1.0
    row, _ = VARIANTS[rope.rope_type].function(rope.theta, other, torch.float64, **parameters)
    listed = [*row[: rope.half].tolist(), *[0.0] * (rope.half - len(row))]
    return with_rope(
        call,
        rope_type="inv_freq",
        theta=DEFAULT_THETA,
        frequency_dim=None,
        parameters=(("inv_freq", tuple(listed)),),
    )

"""Mistakes of the base of the frequencies and of the width of their exponents."""

from collections.abc import Iterator

from rope_core.diagnosis.calls import Clues, RotaryCall
from rope_core.diagnosis.mistake import Number, Wrong, mistake
from rope_core.diagnosis.mistakes.changes import each, with_rope

BASES = (10_000.0, 500_000.0, 1_000_000.0)
"""Bases that code has by default."""

EVERY = ("rotation", "table", "frequencies", "attention")


def _base(call: RotaryCall) -> float | None:
    has_base = call.rope.rope_type != "inv_freq" and call.rope.learned is None
    return call.rope.theta if has_base else None


BASE = Number(
    parameter="theta",
    value=_base,
    vary=lambda call, theta: with_rope(call, theta=theta),
    starts=lambda call: (100 * 2.0**power for power in range(25)),
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

    Looks like: position 0 is right and the fastest pair is right; the error grows with the position
        and with the index of the pair.
    Why: transformers 5 moved rope_theta from the top level of config.json into rope_parameters, and
        code that reads the old place silently gets its own default, such as 10000.
    Hugging Face: read config.rope_parameters["rope_theta"]; configs of transformers 4 have
        config.rope_theta.
    vLLM: pass rope_parameters (older versions: base=config.rope_theta) to get_rope.
    llama.cpp: check <arch>.rope.freq_base in the GGUF file; --rope-freq-base overrides it.
    MLX: pass base=args.rope_theta to nn.RoPE or initialize_rope.
    Source: vllm #28542 and #29700, sglang #14745, DeepSpeed #8341, axolotl #810.
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

    Looks like: only models that rotate a part of each head are affected; the fastest pair is right,
        and the slowest pair turns much too fast or too slowly.
    Why: theta ** (-2i / dim) has dim = rotary_dim in ordinary partial rotation, and dim = head_dim
        in proportional rotation; code for one of them is used for the other.
    Hugging Face: dim is int(head_dim * partial_rotary_factor) in compute_default_rope_parameters;
        rope_type "proportional" divides by head_dim.
    vLLM: pass rotary_dim, not head_size, as rotary_dim of get_rope.
    llama.cpp: n_dims of ggml_rope_ext is the denominator; see <arch>.rope.dimension_count.
    MLX: the argument dims of mx.fast.rope is the denominator.
    Source: Megatron-Bridge #4195, #4196 and #4916, pie #602 and #603, coreai-models #66.
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
    # theta ** (-2i / other) = (theta ** (width / other)) ** (-2i / width)
    yield from each(
        "width",
        widths,
        call,
        lambda other: with_rope(call, theta=float(rope.theta ** (width / other))),
    )

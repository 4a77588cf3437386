"""Mistakes of positions: offsets, scales and rounding."""

from collections.abc import Iterator
from dataclasses import replace

import torch

from rope_core.diagnosis.calls import Clues, RotaryCall
from rope_core.diagnosis.mistake import EVERY, Number, Wrong, mistake
from rope_core.diagnosis.mistakes.changes import powers_of_two

MAX_ROUNDING = 0.01
"""Largest relative change of a measured offset to a plainer one."""

HALF = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@mistake(
    "rotation",
    "table",
    "attention",
    text="Positions are off by {offset}.",
    remedy="Give each token its own position: 0 for the first of a sequence, and the number of"
    " cached tokens for the first new one.",
    number=Number(
        parameter="offset",
        value=lambda call: 0.0,
        vary=lambda call, offset: replace(call, positions=call.positions + offset),
        starts=lambda call: (0.0, *(sign * 2.0**p for p in range(18) for sign in (1, -1))),
        is_ratio=False,
        is_whole=True,
    ),
)
def position_offset(call: RotaryCall, clues: Clues) -> Iterator[Wrong]:
    """All positions differ from the right ones by one number.

    Looks like: position 0 is wrong, and each pair is off by a constant angle. Scores are right if
        q and k have the same offset.
    Why: positions start at 1, padding is counted, or the number of rows kept in a cache is taken
        for the number of tokens before.
    Hugging Face: `position_ids`; with a cache they start at `past_key_values.get_seq_length()`.
    vLLM: `positions` of the model runner count all tokens before, cached or not.
    llama.cpp: `llama_batch.pos` counts all tokens before; after `llama_memory_seq_rm` shift the
        rest with `llama_memory_seq_add`.
    MLX: `offset=cache.offset`, taken before `cache.update_and_fetch`.
    Source: VeloxQuant-MLX #138, fla #766, executorch #2010, rotary-embedding-torch #11,
        hipfire #391.
    """
    measured = () if clues.position_offset is None else _whole_near(clues.position_offset)
    for offset in dict.fromkeys((-1, 1, *measured)):
        yield {"offset": offset}, replace(call, positions=call.positions + float(offset))


def _whole_near(offset: float) -> list[int]:
    """Return whole numbers near a measured offset, plainest first, without 0."""
    near = [float(f"{offset:.{digits}e}") for digits in range(3)]
    limit = max(0.5, MAX_ROUNDING * abs(offset))
    return [round(one) for one in (*near, offset) if abs(one - offset) <= limit and round(one)]


@mistake(
    *EVERY,
    text="Positions are multiplied by {scale}.",
    remedy="Use positions as they are, and divide frequencies only if the config has linear"
    " scaling.",
    number=Number(
        parameter="scale",
        value=lambda call: 1.0,
        vary=lambda call, scale: replace(call, positions=call.positions * scale),
        starts=lambda call: (1 / 3, 3.0, *(2.0**power for power in range(-7, 8))),
    ),
)
def position_scaled(call: RotaryCall, clues: Clues) -> Iterator[Wrong]:
    """All positions are multiplied by one number.

    Looks like: every pair turns too fast or too slowly by one ratio.
    Why: linear interpolation is applied to a model or a layer type that has none, or is left out.
    Hugging Face: rope_type "linear" divides frequencies by `factor`; in Gemma 3 only those of
        full-attention layers.
    vLLM: `LinearScalingRotaryEmbedding` is taken for rope_type "linear" only.
    llama.cpp: `--rope-freq-scale` is 1 / `--rope-scale`; `<arch>.rope.scaling.factor`.
    MLX: `scale` of `mx.fast.rope` multiplies positions: it is 1 / factor.
    Source: mlx-vlm #1709, mlxcel #1340, llama.cpp #14367, LongLoRA #181.
    """
    for scale in (*powers_of_two(-6, -1), 1 / 3, 3.0, *powers_of_two(1, 6)):
        yield {"scale": scale}, replace(call, positions=call.positions * scale)


@mistake(
    "rotation",
    "table",
    "attention",
    text="Positions are rounded to {dtype}.",
    remedy="Keep positions in int64 or float32, outside of autocast and of casts of the model.",
)
def positions_rounded(call: RotaryCall, clues: Clues) -> Iterator[Wrong]:
    """Positions are in half precision.

    Looks like: positions up to 256 in bfloat16, or 2048 in float16, are right; above, neighbouring
        tokens share a rotation, in steps that grow.
    Why: `torch.arange` gets the default dtype or a wrapper casts it, or position ids are cast with
        the model.
    Hugging Face: `position_ids` are int64, and `.float()` is applied to them in the rotary
        embedding; keep them out of autocast and of `model.half()` wrappers.
    vLLM: `positions` are int64.
    llama.cpp: `llama_batch.pos` is int32.
    MLX: `offset` is an integer; in your own code `mx.arange(..., dtype=mx.float32)`.
    Source: transformers #28685, DeepSpeed #4932, gpt-neox #1003, diffusers #13922.
    """
    for name, dtype in HALF.items():
        if call.positions_dtype is None and (call.positions.to(dtype) != call.positions).any():
            yield {"dtype": name}, replace(call, positions_dtype=dtype)


@mistake(
    *EVERY,
    text="Frequencies or angles are rounded to {dtype}.",
    remedy="Compute frequencies and angles in float32, and round cosine and sine only.",
)
def angles_rounded(call: RotaryCall, clues: Clues) -> Iterator[Wrong]:
    """Frequencies, or their products with positions, are in half precision.

    Looks like: the error grows with the position and is largest for the fastest pairs, whose angles
        are arbitrary above some hundred positions.
    Why: the buffer inv_freq is cast with the model, or autocast computes the product of positions
        and frequencies.
    Hugging Face: `model.half()` and `model.to(torch.bfloat16)` cast the buffer `inv_freq`, and
        `.float()` in `forward` cannot bring the digits back: load with `dtype=` instead.
    vLLM: frequencies and the cache are computed in float32, and cast at the end.
    llama.cpp: angles are float32.
    MLX: `mx.fast.rope` computes in float32; keep `freqs` in float32.
    Source: transformers #25681, #29285 and #24262, Megatron-LM #744, optimum-habana #746.
    """
    if call.angles_dtype is not None or call.frequencies_dtype is not None:
        return
    exact = replace(call.rope, arithmetic="float64")
    for name, dtype in HALF.items():
        for rope, arithmetic in (
            (call.rope, torch.float32),
            (exact, torch.float32),
            (exact, torch.float64),
        ):
            of_rope = replace(call, rope=rope, arithmetic_dtype=arithmetic)
            yield {"dtype": name}, replace(of_rope, frequencies_dtype=dtype)
            yield {"dtype": name}, replace(of_rope, angles_dtype=dtype)

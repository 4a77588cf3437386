"""Count the kernels that random calls of one model compile; a script that compiles nothing.

Prints a line of JSON for each dtype.
"""

import json
import random

import torch
from triton.runtime import driver

from tests.kernels.attention_cases import BF16, FLOAT32, HALF, Case, empty, launches


def key(launch):
    """Return what Triton compiles for, without doing so."""
    *_, binder = launch.launcher.kernel.device_caches[driver.active.get_current_device()]
    options = {"num_warps": launch.num_warps, "num_stages": launch.num_stages}
    _, specialization, options = binder(
        *launch.tensors, *launch.numbers, **launch.constants, debug=False, **options
    )
    return launch.launcher.kernel.fn.__name__, str(specialization), str(options)


def max_variants(dtype):
    """Return how many kernels all calls of one model can need, whose keys are packed."""
    num_out = 1 if dtype == FLOAT32 else 2
    num_scores = 3 * 2 * 2  # masks, positions in tensors, soft-cap
    num_decode = 2 * num_scores
    return num_scores * num_out + num_decode + num_out


def count(dtype, calls=2_000):
    """Return how many kernels random calls of one model need, and how many they may need."""
    draw = random.Random(0)
    limits = None, 1, 16, 17, 4_096, 2**31 - 1
    kernels = set()
    for _ in range(calls):
        num_seqs = draw.choice((1, 2, 3, 16, 17))
        case = Case(
            90,
            *("prefill", dtype, 128, 128),
            mask=draw.choice((None, torch.bool, HALF, BF16, FLOAT32)),
            indexed=draw.random() < 0.5,
            softcap=draw.choice((None, 1.0, 30.0)),
            out_float32=draw.random() < 0.5,
            group=draw.choice((1, 2, 4, 7, 16)),
        )
        causal, window = draw.random() < 0.5, draw.choice(limits)
        lengths = [[draw.choice((0, 1, 2, 16, 33, 400)) for _ in range(num_seqs)] for _ in range(2)]
        lengths[0][0] = max(1, lengths[0][0])
        launched = launches(
            case,
            *lengths,
            scale=draw.choice((1.0, 0.1, -2.0, 16)),
            causal=causal,
            window=window,
            window_ahead=0 if causal or window is None else draw.choice(limits[1:]),
            chunk=draw.choice(limits),
            sinks=draw.choice((None, empty(2 * case.group, dtype=dtype))),
        )
        kernels |= {*map(key, launched)}
    return {"dtype": str(dtype), "compiled": len(kernels), "allowed": max_variants(dtype)}


if __name__ == "__main__":
    for dtype in (BF16, FLOAT32):
        print(json.dumps(count(dtype)))

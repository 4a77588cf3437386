"""Compare the variants of launches with what Triton would compile for the same arguments; a script.

Nothing is compiled: the arguments of the compiler are recorded. Prints a line of JSON for each
call.
"""

import json
import random
from types import SimpleNamespace

import torch
from triton.runtime import JITFunction, driver

from rope_core import AttentionConfig
from rope_core.kernels import attention, attention_kernel, merge, rotary
from rope_core.kernels.launcher import Launcher
from rope_core.kernels.offline import OfflineDriver
from rope_core.kernels.variant import compile_variant

DTYPES = torch.float32, torch.float16, torch.bfloat16


def record(kernel, key, signature, device, constants, options, attributes, warmup):
    """Replace the compiler."""
    arguments = {
        "signature": signature,
        "constants": {str(at): repr(value) for at, value in constants.items()},
        "aligned": [str(at) for at, attribute in attributes.items() if attribute],
        "options": [options.num_warps, options.num_stages],
    }
    return SimpleNamespace(arguments=arguments)


class Compared(Launcher):
    """A launcher that also binds by Triton."""

    def bind(self, launch):
        variant, args = super().bind(launch)
        bound = self.kernel.warmup(
            *launch.tensors,
            *launch.numbers,
            grid=(1,),
            **launch.constants,
            num_warps=launch.num_warps,
            num_stages=launch.num_stages,
        )
        ours = compile_variant(self.kernel, variant)
        print(json.dumps({"ours": ours.arguments, "triton": bound.arguments}), flush=True)
        self.built[variant] = lambda *args: None
        return variant, args


def tensor(rng, *sizes, dtype):
    """Return a tensor of any strides with a last of 1, at any address."""
    *leading, width = sizes
    sizes_in_memory = [size + rng.choice((0, 0, 1)) for size in leading]
    start = rng.choice((0, 0, 0, 1, 8))
    memory = torch.empty(start + torch.Size(sizes_in_memory).numel() * (width + 8), dtype=dtype)
    view = memory[start:].unflatten(0, (*sizes_in_memory, width + 8))
    return view[tuple(slice(size) for size in sizes)]


def rotate(rng):
    dtype, tokens, width = (
        rng.choice(DTYPES),
        rng.choice((1, 2, 16, 33)),
        rng.choice((16, 80)),
    )
    heads = [rng.choice((1, 4, 16)) for _ in range(rng.choice((1, 2)))]
    xs = [tensor(rng, tokens, h, width, dtype=dtype) for h in heads]
    outs = xs if rng.random() < 0.3 else [torch.empty_like(x) for x in xs]
    ids_dtype = rng.choice((torch.int64, torch.float64))
    ids = torch.zeros(3 * tokens, dtype=ids_dtype)[:: rng.choice((1, 2, 3))][:tokens]
    options = {"rotary_dim": 16, "layout": rng.choice(("half", "interleaved"))}
    options |= {"inverse": rng.random() < 0.5, "trailing": rng.random() < 0.5}
    if rng.random() < 0.5:
        freq = torch.empty(8, dtype=torch.float64)
        options |= {"inv_freq": freq, "index": ids, "attention_scaling": rng.choice((1.0, 2.0))}
    else:
        start = rng.choice((0, 1))
        cos, sin = torch.empty(2, start + 8 * tokens).unbind()
        rows = None if rng.random() < 0.5 else ids.long()
        options |= {"table": (cos[start:].view(-1, 8), sin[start:].view(-1, 8)), "index": rows}
    rotary.rotate(xs, outs, **options)


def merging(rng):
    dtype, width = rng.choice(DTYPES), rng.choice((1, 16, 72))
    x = tensor(rng, rng.choice((1, 2, 16)), rng.choice((1, 5, 16)), width, dtype=dtype)
    out = tensor(rng, *x.shape[1:], dtype=rng.choice(DTYPES))
    merge.merge(x, tensor(rng, *x.shape[:2], dtype=torch.float32), out, torch.empty(len(out)))


def attending(rng):
    dtype, group, head_dim = rng.choice(DTYPES), rng.choice((1, 4)), rng.choice((16, 64))
    lengths = [(rng.choice((1, 3, 20, 100)), rng.choice((1, 20, 700))) for _ in range(3)]
    lengths_q, lengths_k = zip(*lengths, strict=True)
    tokens, keys = sum(lengths_q), sum(lengths_k)
    q = tensor(rng, tokens, 2 * group, head_dim, dtype=dtype)
    k, v = (tensor(rng, keys, 2, head_dim, dtype=dtype) for _ in range(2))
    out = torch.empty(q.shape, dtype=rng.choice((dtype, torch.float32)))
    mask = torch.empty(1, 1, tokens, keys, dtype=rng.choice((torch.bool, dtype)))
    index = torch.empty(tokens, dtype=torch.int64), torch.empty(keys, dtype=torch.int64)
    config = AttentionConfig(
        causal=rng.random() < 0.5,
        window=rng.choice((None, 1, 16, 2**31 - 1)),
        chunk=rng.choice((None, 16, 2**31 - 1)),
        softcap=rng.choice((None, 1.0, 30.0)),
        scale=rng.choice((1.0, 0.5)),
    )
    attention.attend(
        *(q, k, v, out, torch.empty(out.shape[:-1]), config),
        lengths=(lengths_q, lengths_k),
        sinks=tensor(rng, 1, 2 * group, dtype=dtype)[0] if rng.random() < 0.3 else None,
        mask=mask if rng.random() < 0.3 else None,
        index=index if rng.random() < 0.3 else None,
    )


if __name__ == "__main__":
    driver.set_active(OfflineDriver(90))
    JITFunction._do_compile = record
    for module in (rotary, merge, attention_kernel):
        module.LAUNCHER.__class__ = Compared
    rng = random.Random(0)
    for _ in range(150):
        rotate(rng)
        merging(rng)
        attending(rng)

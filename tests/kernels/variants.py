"""Compare the variants of launches with what Triton would compile for the same arguments; a script.

Nothing is compiled: what the compiler is given is kept. Prints a line of JSON for each call.
"""

import json
import random
from types import SimpleNamespace

import torch
from triton.runtime import JITFunction, driver

from rope_core.kernels import attention, decode, merge, prefill, rotary, split_kv
from rope_core.kernels.launcher import Launcher
from rope_core.kernels.offline import OfflineDriver

DTYPES = torch.float32, torch.float16, torch.bfloat16


def keep(kernel, key, signature, device, constants, options, attributes, warmup):
    """Take the place of the compiler."""
    found = {
        "signature": signature,
        "constants": {str(at): repr(value) for at, value in constants.items()},
        "aligned": [str(at) for at, found in attributes.items() if found],
        "options": [options.num_warps, options.num_stages],
    }
    return SimpleNamespace(found=found)


class Compared(Launcher):
    """A launcher that also asks Triton."""

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
        ours = self.compile(variant)
        print(json.dumps({"ours": ours.found, "triton": bound.found}), flush=True)
        self.built[variant] = lambda *args: None
        return variant, args


def tensor(chance, *sizes, dtype):
    """Return a tensor of any strides with a last of 1, at any address."""
    *leading, width = sizes
    more = [size + chance.choice((0, 0, 1)) for size in leading]
    start = chance.choice((0, 0, 0, 1, 8))
    whole = torch.empty(start + torch.Size(more).numel() * (width + 8), dtype=dtype)
    lying = whole[start:].unflatten(0, (*more, width + 8))
    return lying[tuple(slice(size) for size in sizes)]


def rotate(chance):
    dtype, tokens, width = (
        chance.choice(DTYPES),
        chance.choice((1, 2, 16, 33)),
        chance.choice((16, 80)),
    )
    heads = [chance.choice((1, 4, 16)) for _ in range(chance.choice((1, 2)))]
    xs = [tensor(chance, tokens, h, width, dtype=dtype) for h in heads]
    outs = xs if chance.random() < 0.3 else [torch.empty_like(x) for x in xs]
    ids_of = chance.choice((torch.int64, torch.float64))
    ids = torch.zeros(3 * tokens, dtype=ids_of)[:: chance.choice((1, 2, 3))][:tokens]
    how = {"rotary_dim": 16, "layout": chance.choice(("half", "interleaved"))}
    how |= {"inverse": chance.random() < 0.5, "trailing": chance.random() < 0.5}
    if chance.random() < 0.5:
        freq = torch.empty(8, dtype=torch.float64)
        rotary.rotate_at(xs, outs, ids, freq, gain=chance.choice((1.0, 2.0)), **how)
    else:
        start = chance.choice((0, 1))
        cos, sin = torch.empty(2, start + 8 * tokens).unbind()
        rows = None if chance.random() < 0.5 else ids.long()
        rotary.rotate(xs, outs, *(t[start:].view(-1, 8) for t in (cos, sin)), rows=rows, **how)


def merging(chance):
    dtype, width = chance.choice(DTYPES), chance.choice((1, 16, 72))
    x = tensor(chance, chance.choice((1, 2, 16)), chance.choice((1, 5, 16)), width, dtype=dtype)
    out = tensor(chance, *x.shape[1:], dtype=chance.choice(DTYPES))
    merge.merge(x, tensor(chance, *x.shape[:2], dtype=torch.float32), out, torch.empty(len(out)))


def attending(chance):
    dtype, group, head_dim = chance.choice(DTYPES), chance.choice((1, 4)), chance.choice((16, 64))
    lengths = [(chance.choice((1, 3, 20, 100)), chance.choice((1, 20, 700))) for _ in range(3)]
    lengths_q, lengths_k = zip(*lengths, strict=True)
    tokens, keys = sum(lengths_q), sum(lengths_k)
    q = tensor(chance, tokens, 2 * group, head_dim, dtype=dtype)
    k, v = (tensor(chance, keys, 2, head_dim, dtype=dtype) for _ in range(2))
    out = torch.empty(q.shape, dtype=chance.choice((dtype, torch.float32)))
    mask = torch.empty(1, 1, tokens, keys, dtype=chance.choice((torch.bool, dtype)))
    index = [torch.empty(n, dtype=torch.int64) for n in (tokens, keys)]
    of_q, of_k = index if chance.random() < 0.3 else (None, None)
    attention.attend(
        *(q, k, v, out, torch.empty(out.shape[:-1])),
        lengths_q=lengths_q,
        lengths_k=lengths_k,
        scale=chance.choice((1.0, 0.5)),
        causal=chance.random() < 0.5,
        window=chance.choice((None, 1, 16, 2**33)),
        chunk=chance.choice((None, 16, 2**33)),
        softcap=chance.choice((None, 1.0, 30.0)),
        sinks=tensor(chance, 1, 2 * group, dtype=dtype)[0] if chance.random() < 0.3 else None,
        mask=mask if chance.random() < 0.3 else None,
        q_index=of_q,
        k_index=of_k,
    )


if __name__ == "__main__":
    driver.set_active(OfflineDriver(90))
    JITFunction._do_compile = keep
    for module in (rotary, merge, decode, prefill, split_kv):
        module.LAUNCHER.__class__ = Compared
    chance = random.Random(0)
    for _ in range(150):
        rotate(chance)
        merging(chance)
        attending(chance)

"""Random calls of every kind."""

import random

import torch
from torch import Tensor

from rope_core import Attend, AttentionConfig, Call, CosSin, Merge, RopeConfig, Rotate, Shift

DTYPES = (torch.float32, torch.float16, torch.bfloat16)

HEAD_DIM = 16


def tensor(rng: random.Random, dtype: torch.dtype, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(rng.getrandbits(32))
    return torch.randn(shape, generator=generator).to(dtype)


def integers(rng: random.Random, low: int, high: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(rng.getrandbits(32))
    return torch.randint(low, high, shape, generator=generator)


def rope_of(rng: random.Random) -> RopeConfig:
    layout = rng.choice(("half", "interleaved"))
    return RopeConfig.of(HEAD_DIM, rotary_dim=rng.choice((10, HEAD_DIM)), layout=layout)


def rotation(rng: random.Random) -> Rotate:
    rope, dtype = rope_of(rng), rng.choice(DTYPES)
    rows, length = rng.choice((1, 1, 2)), rng.randint(0, 70)
    q = tensor(rng, dtype, rows, length, 4, HEAD_DIM)
    k = rng.choice((None, tensor(rng, dtype, rows, length, 2, HEAD_DIM)))
    whole = integers(rng, -5, 200_000, rows, length)
    positions = rng.choice((None, whole[0], whole, whole.double() + 0.5))
    return Rotate(q, k, rope, positions, inverse=rng.random() < 0.2)


def packed_rotation(rng: random.Random) -> Rotate:
    length = rng.randint(3, 70)
    q = tensor(rng, torch.float32, length, 4, HEAD_DIM)
    return Rotate(q, None, RopeConfig.of(HEAD_DIM), None, torch.tensor([0, 2, 2, length]))


def rotation_of_axes(rng: random.Random) -> Rotate:
    rope = RopeConfig.of(HEAD_DIM, axes="mrope", mrope_section=(2, 3, 3))
    length = rng.randint(1, 30)
    q = tensor(rng, torch.float32, 1, length, 2, HEAD_DIM)
    of_axes = integers(rng, 0, 99, 3, 1, length)
    return Rotate(q, None, rope, rng.choice((None, of_axes, of_axes[0, 0])))


def attention(rng: random.Random) -> Attend:
    rows, queries, keys = rng.choice((1, 1, 2, 3)), rng.randint(0, 60), rng.randint(0, 60)
    if rng.random() < 0.3:
        queries = keys
    dtype, rope = rng.choice(DTYPES), rng.choice((None, RopeConfig.of(HEAD_DIM)))
    q = tensor(rng, dtype, rows, queries, 4, HEAD_DIM)
    k, v = (tensor(rng, dtype, rows, keys, 2, HEAD_DIM) for _ in range(2))
    index = rng.choice((None, integers(rng, -5, 60, queries), integers(rng, 0, 60, rows, queries)))
    key_index = integers(rng, 0, 60, rows, keys)
    q_positions, k_positions = integers(rng, 0, 9999, queries), integers(rng, 0, 9999, rows, keys)
    return Attend(
        q,
        k,
        v,
        rope,
        AttentionConfig(causal=rng.random() < 0.7, window=rng.choice((None, None, 7))),
        q_positions=rng.choice((None, q_positions)),
        k_positions=rng.choice((None, k_positions)),
        return_lse=rng.random() < 0.5,
        q_index=index,
        k_index=None if index is None else rng.choice((None, key_index)),
        out_dtype=rng.choice((None, None, torch.float32)),
    )


def packed_attention(rng: random.Random) -> Attend:
    queries, keys = ([rng.randint(0, 20) for _ in range(3)] for _ in range(2))
    q = tensor(rng, torch.float32, sum(queries), 4, HEAD_DIM)
    k, v = (tensor(rng, torch.float32, sum(keys), 2, HEAD_DIM) for _ in range(2))
    ends = [torch.tensor([0, n[0], n[0] + n[1], sum(n)]) for n in (queries, keys)]
    rope = RopeConfig.of(HEAD_DIM)
    return Attend(q, k, v, rope, cu_seqlens_q=ends[0], cu_seqlens_k=ends[1], return_lse=True)


def attention_of_axes(rng: random.Random) -> Attend:
    rope = RopeConfig.of(HEAD_DIM, axes="mrope", mrope_section=(2, 3, 3))
    rows, length = rng.choice((1, 2)), rng.randint(1, 30)
    q = tensor(rng, torch.float32, rows, length, 4, HEAD_DIM)
    of_axes = integers(rng, 0, 99, 3, rows, length)
    positions = rng.choice((None, of_axes, of_axes[0, 0], of_axes[0]))
    k_positions = rng.choice((positions, of_axes))
    return Attend(q, q, q, rope, q_positions=positions, k_positions=k_positions)


def masked_attention(rng: random.Random) -> Attend:
    length = rng.randint(1, 30)
    q = tensor(rng, torch.float32, 1, length, 4, HEAD_DIM)
    mask = integers(rng, 0, 2, length, length).bool()
    sinks = rng.choice((None, tensor(rng, torch.float32, 4)))
    return Attend(q, q, q, RopeConfig.of(HEAD_DIM), mask=rng.choice((None, mask)), sinks=sinks)


def shift(rng: random.Random) -> Shift:
    length = rng.randint(1, 70)
    k = tensor(rng, rng.choice(DTYPES), 1, length, 2, HEAD_DIM)
    delta = rng.choice((integers(rng, -9, 9), integers(rng, -9, 9, length)))
    return Shift(k, delta, RopeConfig.of(HEAD_DIM))


def merge(rng: random.Random) -> Merge:
    parts, length = rng.randint(1, 4), rng.randint(1, 30)
    out = tensor(rng, rng.choice(DTYPES), parts, length, 4, HEAD_DIM)
    return Merge(out, tensor(rng, torch.float32, parts, length, 4))


def cos_sin(rng: random.Random) -> CosSin:
    return CosSin(integers(rng, 0, 9999, rng.randint(1, 90)), rope_of(rng))


KINDS = (
    *(rotation, rotation, packed_rotation, rotation_of_axes, shift, merge, cos_sin),
    *(attention, attention, packed_attention, masked_attention, attention_of_axes),
)


def any_call(rng: random.Random) -> Call:
    return rng.choice(KINDS)(rng)

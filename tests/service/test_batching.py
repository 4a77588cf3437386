"""An answer depends on its request alone, whatever it is batched with."""

import asyncio
import random
import re

import pytest
import torch

from rope_core import Attend, AttentionConfig, Merge, RopeConfig, Rotate
from service.buffer_pool import BufferPool
from service.device import Cpu
from service.inference.engine import Engine
from service.wire import Message, Parameters
from service.wire import safetensors_codec as codec
from tests.service.conftest import post

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def tensor(rng: random.Random, dtype: torch.dtype, *shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(rng.getrandbits(32))
    return torch.randn(shape, generator=generator).to(dtype)


def rotation(rng: random.Random) -> Rotate:
    """A random small rotation; few enough kinds that many share a pack."""
    layout, dtype = rng.choice(("half", "interleaved")), rng.choice(DTYPES)
    rope = RopeConfig.of(16, rotary_dim=rng.choice((10, 16)), layout=layout)
    rows, length = rng.choice((1, 1, 2)), rng.randint(1, 70)
    q = tensor(rng, dtype, rows, length, 4, 16)
    k = tensor(rng, dtype, rows, length, 2, 16)
    positions = torch.tensor([rng.randint(-5, 200_000) for _ in range(rows * length)])
    given = rng.choice((None, positions[:length], positions.view(rows, length)))
    return Rotate(q, k, rope, given, inverse=rng.random() < 0.2)


def attention(rng: random.Random) -> Attend:
    dtype, queries, keys = rng.choice(DTYPES), rng.randint(1, 90), rng.randint(1, 90)
    config = AttentionConfig(causal=rng.random() < 0.7, window=rng.choice((None, None, 7)))
    q, k, v = (
        tensor(rng, dtype, 1, length, heads, 16)
        for length, heads in ((queries, 4), (keys, 2), (keys, 2))
    )
    return Attend(q, k, v, RopeConfig.of(16), config, return_lse=True)


def equal(one: object, other: object) -> bool:
    names = [name for name in ("q", "k", "out", "lse") if hasattr(one, name)]
    pairs = [(getattr(one, name), getattr(other, name)) for name in names]
    return all(a is b is None or torch.equal(a, b) for a, b in pairs)


@pytest.fixture(params=[1, 2], ids=["1 thread", "2 threads"])
def engine(request):
    threads = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield Engine(Cpu(BufferPool(2**24)), max_call_s=60, stuck_s=30)
    torch.set_num_threads(threads)


@pytest.mark.parametrize("kind", [rotation, attention])
def test_200_random_calls_in_batches_of_1_to_64_are_bit_equal_to_each_alone(engine, kind):
    rng = random.Random(7)
    jobs = [engine.job(kind(rng)) for _ in range(200)]
    alone = [engine.run([job]).results[0] for job in jobs]
    groups: dict[object, list[int]] = {}
    for index, job in enumerate(jobs):
        groups.setdefault(job.batch_key, []).append(index)
    shared = 0
    for indices in groups.values():
        rng.shuffle(indices)
        while indices:
            size = rng.randint(1, 64)
            batch, indices = indices[:size], indices[size:]
            together = engine.run([jobs[index] for index in batch]).results
            shared += len(batch) > 1
            for index, result in zip(batch, together, strict=True):
                assert equal(result, alone[index]), jobs[index].call
    assert shared > 3, "there were batches to speak of"


@pytest.mark.parametrize("out_dtype", [None, torch.float32], ids=str)
@pytest.mark.parametrize("return_lse", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_attention_is_charged_what_its_answer_takes(engine, dtype, return_lse, out_dtype):
    q, k, v = (tensor(random.Random(1), dtype, 2, 9, 4, width) for width in (16, 16, 24))
    call = Attend(q, k, v, None, return_lse=return_lse, out_dtype=out_dtype)
    job = engine.job(call)
    (result,) = engine.run([job]).results
    lse_bytes = result.lse.nbytes if return_lse else 0
    assert job.answer_bytes == result.out.nbytes + lse_bytes


def test_a_merger_is_charged_for_one_of_its_parts(engine):
    out = tensor(random.Random(1), torch.bfloat16, 5, 2, 9, 4, 16)
    job = engine.job(Merge(out, out[..., 0].float()))
    (result,) = engine.run([job]).results
    assert job.answer_bytes == result.out.nbytes + result.lse.nbytes


async def test_good_neighbours_of_bad_requests_are_answered_byte_for_byte_as_alone(client):
    rng = random.Random(3)
    good = [
        Message(
            {"q": tensor(rng, torch.float32, 1, 4 + i, 2, 8)},
            Parameters.of({"rope": {"theta": 100}}),
        )
        for i in range(8)
    ]
    bad = [
        Message({"q": torch.zeros(1, 4, 2, 7)}),
        Message(
            {"q": torch.full((1, 4, 2, 8), torch.nan)}, Parameters.of({"rope": {"theta": 100}})
        ),
        Message({"q": torch.zeros(1, 4, 2, 8), "positions": torch.zeros(3)}),
        Message({"x": torch.zeros(1)}),
    ]
    alone = [(await post(client, codec, "/v1/rotate", message)).content for message in good]
    for _ in range(4):
        everybody = good + bad * 2
        rng.shuffle(everybody)
        answers = await asyncio.gather(
            *(post(client, codec, "/v1/rotate", message) for message in everybody)
        )
        for message, answer in zip(everybody, answers, strict=True):
            index = next((i for i, each in enumerate(good) if each is message), None)
            if index is not None:
                assert answer.content == alone[index]
            assert answer.status_code in (200, 422)
    scraped = (await client.get("/metrics")).text
    sizes = dict(re.findall(r"rope_batch_requests_(sum|count) (\S+)", scraped))
    assert float(sizes["sum"]) > 1.5 * float(sizes["count"]), "they did share batches"


async def test_one_that_breaks_the_run_does_not_break_its_neighbours(app, client, monkeypatch):
    import rope_core

    rotate = rope_core.rotate

    def fragile(call, out, backend):
        if (call.like == 13).any():
            raise RuntimeError("the device does not like 13")
        return rotate(call, out, backend)

    monkeypatch.setattr(rope_core, "rotate", fragile)
    messages = [Message({"q": torch.full((1, 2, 2, 8), float(i))}) for i in range(10, 18)]
    answers = await asyncio.gather(*(post(client, codec, "/v1/rotate", m) for m in messages))
    assert [a.status_code for a in answers] == [200, 200, 200, 500, 200, 200, 200, 200]
    assert "13" not in answers[3].text, "a bug of ours is told to the log alone"

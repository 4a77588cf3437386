"""A result depends on its request alone, and not on the other requests of the batch."""

import asyncio
import random
import re

import pytest
import torch

import rope_core
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
    """Return a random small rotation, of few enough pack keys that many share one."""
    layout, dtype = rng.choice(("half", "interleaved")), rng.choice(DTYPES)
    rope = RopeConfig.of(16, rotary_dim=rng.choice((10, 16)), layout=layout)
    rows, length = rng.choice((1, 1, 2)), rng.randint(1, 70)
    q = tensor(rng, dtype, rows, length, 4, 16)
    k = tensor(rng, dtype, rows, length, 2, 16)
    positions = torch.tensor([rng.randint(-5, 200_000) for _ in range(rows * length)])
    positions = rng.choice((None, positions[:length], positions.view(rows, length)))
    return Rotate(q, k, rope, positions, inverse=rng.random() < 0.2)


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
    yield Engine(Cpu(BufferPool(2**24)), max_call_s=60)
    torch.set_num_threads(threads)


@pytest.mark.parametrize("random_call", [rotation, attention])
def test_random_calls_in_batches_are_bit_equal_to_each_call_alone(engine, random_call):
    rng = random.Random(7)
    jobs = [engine.job(random_call(rng)) for _ in range(200)]
    alone = [engine.run([job]).results[0] for job in jobs]
    groups: dict[object, list[int]] = {}
    for index, job in enumerate(jobs):
        groups.setdefault(job.batch_key, []).append(index)
    num_shared = 0
    for indices in groups.values():
        rng.shuffle(indices)
        while indices:
            size = rng.randint(1, 64)
            batch, indices = indices[:size], indices[size:]
            results = engine.run([jobs[index] for index in batch]).results
            num_shared += len(batch) > 1
            for index, result in zip(batch, results, strict=True):
                assert equal(result, alone[index]), jobs[index].call
    assert num_shared > 3, "several batches have more than one call"


@pytest.mark.parametrize("out_dtype", [None, torch.float32], ids=str)
@pytest.mark.parametrize("return_lse", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_answer_bytes_of_attention_are_those_of_its_result(
    engine, dtype, return_lse, out_dtype
):
    q, k, v = (tensor(random.Random(1), dtype, 2, 9, 4, width) for width in (16, 16, 24))
    call = Attend(q, k, v, None, return_lse=return_lse, out_dtype=out_dtype)
    job = engine.job(call)
    (result,) = engine.run([job]).results
    lse_bytes = result.lse.nbytes if return_lse else 0
    assert job.answer_bytes == result.out.nbytes + lse_bytes


def test_the_answer_bytes_of_a_merge_are_those_of_one_part(engine):
    out = tensor(random.Random(1), torch.bfloat16, 5, 2, 9, 4, 16)
    job = engine.job(Merge(out, out[..., 0].float()))
    (result,) = engine.run([job]).results
    assert job.answer_bytes == result.out.nbytes + result.lse.nbytes


async def test_bad_requests_do_not_change_the_answers_of_their_neighbours(client):
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
        messages = good + bad * 2
        rng.shuffle(messages)
        answers = await asyncio.gather(
            *(post(client, codec, "/v1/rotate", message) for message in messages)
        )
        for message, answer in zip(messages, answers, strict=True):
            index = next((i for i, other in enumerate(good) if other is message), None)
            if index is not None:
                assert answer.content == alone[index]
            assert answer.status_code in (200, 422)
    scraped = (await client.get("/metrics")).text
    sizes = dict(re.findall(r"rope_batch_requests_(sum|count) (\S+)", scraped))
    assert float(sizes["sum"]) > 1.5 * float(sizes["count"]), "requests share batches"


async def test_a_call_that_fails_its_run_does_not_fail_its_neighbours(client, monkeypatch):
    rotate = rope_core.rotary.run_rotate

    def fail_on_13(call, out, backend):
        if (call.q_or_k == 13).any():
            raise RuntimeError("13")
        return rotate(call, out, backend)

    monkeypatch.setattr(rope_core.rotary, "run_rotate", fail_on_13)
    messages = [Message({"q": torch.full((1, 2, 2, 8), float(i))}) for i in range(10, 18)]
    answers = await asyncio.gather(*(post(client, codec, "/v1/rotate", m) for m in messages))
    assert [a.status_code for a in answers] == [200, 200, 200, 500, 200, 200, 200, 200]
    assert "13" not in answers[3].text, "the client does not see the text of an internal error"

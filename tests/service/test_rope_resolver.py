"""Ropes are resolved once, and those of one batch stay apart."""

import asyncio
import gc
import weakref

import pytest
import torch

import rope_core
from rope_core import (
    ConfigError,
    Rotate,
)
from rope_core.presets import built_in
from service.endpoints.rope_params import Rope
from service.endpoints.rope_resolver import MAX_CACHED, RopeResolver
from service.wire import CODECS, Message
from tests.service.conftest import every_test_in_one_loop
from tests.service.messages import answered, params
from tests.service.rope_cases import (
    MODELS,
    PARAMETERS,
    heads,
    library_rope,
)

pytestmark = every_test_in_one_loop


@pytest.fixture
def client(shared_client):
    return shared_client


async def test_a_rope_is_resolved_once_for_each_head_dim():
    resolver, rope = RopeResolver(built_in()), Rope(theta=3.0)
    resolved = resolver.resolve(rope, 8, None)
    assert resolver.resolve(rope, 8, None) is resolved
    assert resolver.resolve(rope, 4, None).config.head_dim == 4
    by_name = [resolver.resolve("llama-3.1-8b", None, None) for _ in range(2)]
    assert by_name[0] is by_name[1]


async def test_the_cache_of_a_rope_is_bounded():
    resolver, rope = RopeResolver({}), Rope()
    for head_dim in range(2, 1000, 2):
        resolver.resolve(rope, head_dim, None)
    assert 0 < len(rope.resolved) <= MAX_CACHED


async def test_the_cache_of_a_rope_is_freed_with_it():
    rope = Rope()
    RopeResolver({}).resolve(rope, 8, None)
    reference = weakref.ref(rope)
    del rope
    gc.collect()
    assert reference() is None


async def test_presets_are_those_of_one_resolver():
    RopeResolver(built_in()).resolve("llama-3.1-8b", None, None)
    with pytest.raises(ConfigError, match="preset must be the name of a preset"):
        RopeResolver({}).resolve("llama-3.1-8b", None, None)


async def test_ropes_of_one_batch_do_not_mix(client):
    async def rotate(rope):
        message = Message({"q": heads(2)}, params(rope=rope))
        return (await answered(client, CODECS[1], "/v1/rotate", message)).tensors["q"]

    ropes = [*PARAMETERS[:10], MODELS["4.x"], MODELS["layer"]] * 3
    answers = await asyncio.gather(*map(rotate, ropes))
    for rope, answer in zip(ropes, answers, strict=True):
        expected = rope_core.rotate(Rotate(heads(2), None, library_rope(rope)))
        assert torch.equal(answer, expected.q)

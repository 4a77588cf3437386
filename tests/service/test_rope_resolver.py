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


async def test_what_was_read_is_kept_as_long_as_its_parameters(monkeypatch):
    rope_resolver, given = RopeResolver(built_in()), Rope(theta=3.0)
    found = rope_resolver.resolve(given, 8, None)
    assert rope_resolver.resolve(given, 8, None) is found
    assert rope_resolver.resolve(given, 4, None) is not found
    assert rope_resolver.resolve("llama-3.1-8b", None, None) is rope_resolver.resolve(
        "llama-3.1-8b", None, None
    )
    for head_dim in range(2, 1000, 2):
        rope_resolver.resolve(given, head_dim, None)
    assert len(given.resolved) <= MAX_CACHED
    other = RopeResolver({})
    with pytest.raises(ConfigError):  # presets are those of the service that is asked
        other.resolve("llama-3.1-8b", None, None)
    key = weakref.ref(given)
    del given
    gc.collect()
    assert key() is None, "nothing is kept of parameters that are gone"


async def test_ropes_of_one_batch_do_not_mix(client):
    async def rotated(rope):
        body = Message({"q": heads(2)}, params(rope=rope))
        return (await answered(client, CODECS[1], "/v1/rotate", body)).tensors["q"]

    rope_resolver = [*PARAMETERS[:10], MODELS["4.x"], MODELS["layer"]]
    together = await asyncio.gather(*map(rotated, rope_resolver * 3))
    for rope, answer in zip(rope_resolver * 3, together, strict=True):
        expected = rope_core.rotate(Rotate(heads(2), None, library_rope(rope)))
        assert torch.equal(answer, expected.q)

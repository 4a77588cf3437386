"""Sessions of the client against the service itself; what can go wrong is tested with a double."""

import subprocess
import sys

import numpy as np
import pytest
import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

from rope_client import AsyncClient, Attended, Client, SessionConflict, SessionGone
from tests.client.session_tools import CONFIGURATION, expected, tokens
from tests.client.test_session_transformers import MASK, PADDED, both, model_of
from tests.conftest import ROOT


@pytest.fixture
def client(server_url):
    with Client(server_url) as made:
        yield made


@pytest.fixture(params=["http", "stream"])
def operations(request, client):
    with client.session(**CONFIGURATION, layers=2, max_tokens=64) as session:
        if request.param == "http":
            yield session, session
        else:
            with session.stream() as stream:
                yield session, stream


def test_operations(operations):
    session, each = operations
    q, k, v = tokens(6)
    stepped = each.step(0, q[:, :5], k[:, :5], v[:, :5], return_lse=True)
    np.testing.assert_allclose(stepped.out[0], expected(q[0, :5], k[0, :5], v[0, :5]), atol=1e-5)
    assert stepped.lse.shape == (1, 5, 4)
    assert each.append(1, k[:, :5], v[:, :5]) == (5,)
    assert each.truncate(drop=1) == (4,)
    one = each.step(0, q[:, 4:5], k[:, 4:5], v[:, 4:5])
    np.testing.assert_allclose(one.out, stepped.out[:, 4:5], atol=1e-5)
    each.truncate(4)
    assert each.evict(1, 2) == (3,)
    assert each.shift(0, 3, 5) == (3,)
    assert each.attach(session, 0, 2) == (5,)
    assert each.select_tail(2, [1]) == (4,)
    assert each.reorder([0, 0]) == (4, 4)
    document = session.inspect()
    assert (document.generation, document.length) == (session.generation, session.length)
    assert each.attend(0, np.concatenate([q[:, :1]] * 2)).out.shape == (2, 1, 4, 8)


def test_conflicts_and_ends(client):
    with client.session(**CONFIGURATION, name="chat", labels=["tests"]) as session:
        other = client.open_session(session.id)
        other.step(None, *tokens(2))
        with pytest.raises(SessionConflict) as raised:
            session.step(None, *tokens(1))
        assert raised.value.length == [2]
        assert session.id in {document.id for document in client.sessions("tests")}
        (document,) = client.sessions(name="chat")
        assert document.name == "chat"
    with pytest.raises(SessionGone) as gone:
        other.inspect()
    assert gone.value.reason == "deleted"


async def test_forks_and_steps_of_many(server_url):
    async with (
        AsyncClient(server_url) as client,
        client.session(**CONFIGURATION) as session,
    ):
        q, k, v = tokens(4)
        await session.step(0, q[:, :3], k[:, :3], v[:, :3])
        forks = await session.fork(3)
        assert (await session.freeze()).frozen
        await forks[2].delete()
        steps = [(fork, q[:, 3:], k[:, 3:], v[:, 3:]) for fork in forks]
        first, second, third = await client.step_many(steps, layer=0)
        assert isinstance(first, Attended)
        assert first.out.tobytes() == second.out.tobytes()
        np.testing.assert_allclose(first.out[0], expected(q[0, 3:], k[0], v[0]), atol=1e-5)
        assert isinstance(third, SessionGone)
        for fork in forks[:2]:
            assert fork.length == (4,)
            await fork.delete()


@pytest.mark.parametrize("is_streamed", [True, False])
@pytest.mark.parametrize(
    "options",
    [{}, {"num_beams": 3}, {"prompt_lookup_num_tokens": 3}, {"do_sample": True}],
    ids=["greedy", "beams", "prompt_lookup", "sample"],
)
def test_ways_to_generate(client, options, is_streamed):
    model = model_of(LlamaForCausalLM, LlamaConfig)
    wanted, got = both(client, model, is_streamed=is_streamed, **options)
    assert got == wanted


YARN = {
    "rope_type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 8,
    "rope_theta": 10_000.0,
}


@pytest.mark.parametrize(
    ("model_class", "config_class", "changes"),
    [
        ("LlamaForCausalLM", "LlamaConfig", {"rope_parameters": YARN}),
        ("MistralForCausalLM", "MistralConfig", {"sliding_window": 4}),
        ("PhiForCausalLM", "PhiConfig", {}),
        ("SmolLM3ForCausalLM", "SmolLM3Config", {"num_hidden_layers": 5}),
        ("Gemma2ForCausalLM", "Gemma2Config", {"sliding_window": 4, "head_dim": 8}),
        (
            "Gemma3ForCausalLM",
            "Gemma3TextConfig",
            {"sliding_window": 4, "head_dim": 8, "num_hidden_layers": 7},
        ),
        (
            "GptOssForCausalLM",
            "GptOssConfig",
            {"sliding_window": 4, "head_dim": 8, "num_local_experts": 4},
        ),
        (
            "Llama4ForCausalLM",
            "Llama4TextConfig",
            {
                "head_dim": 8,
                "num_hidden_layers": 5,
                "num_local_experts": 2,
                "intermediate_size_mlp": 48,
                "attention_chunk_size": 4,
            },
        ),
    ],
)
def test_models(client, model_class, config_class, changes):
    """Windows, chunks, sinks, softcaps, layers without rotation, heads that rotate in part."""
    model = model_of(
        getattr(transformers, model_class), getattr(transformers, config_class), **changes
    )
    wanted, got = both(client, model)
    assert got == wanted
    wanted, got = both(client, model, PADDED, attention_mask=MASK)
    assert got == wanted


def test_bfloat16(client):
    """Not the same tokens: the two round in different places."""
    model = model_of(LlamaForCausalLM, LlamaConfig).to(torch.bfloat16)
    with torch.no_grad(), client.session_cache(model) as cache:
        got = model(PADDED, attention_mask=MASK, past_key_values=cache).logits
    with torch.no_grad():
        wanted = model(PADDED, attention_mask=MASK).logits
    is_token = MASK.bool()
    error = (got[is_token] - wanted[is_token]).norm() / wanted[is_token].norm()
    assert got.dtype == torch.bfloat16
    assert error < 0.05


def test_the_example(server_url):
    program = ROOT / "examples" / "generate_with_sessions.py"
    command = [sys.executable, program, "--url", server_url, "--random", "--tokens", "6"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the same 6 tokens in all ways" in done.stdout
    assert done.stdout.count("ms per token") == 4

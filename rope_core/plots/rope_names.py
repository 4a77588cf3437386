"""The name of a rope in a title, and of its pairs below an axis."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from rope_core.config import RopeConfig
from rope_core.hf import Resolved
from rope_core.pairs import channel_pairs
from rope_core.sources import file_title

MAX_NAME = 60
"""Characters of a name in a title."""


def rope_name(source: Any, resolved: Resolved) -> str:
    """Return the name of a preset or of a file, otherwise that of the family or of the variant."""
    if isinstance(source, Mapping) and isinstance(source.get("preset"), str):
        source = source["preset"]
    if isinstance(source, str | os.PathLike):
        return file_title(Path(source))[:MAX_NAME]
    return (resolved.model_type or resolved.require_rope().rope_type)[:MAX_NAME]


def pair_label(rope: RopeConfig) -> str:
    """Return the label of an axis of pairs: which channels they are, and which do not rotate."""
    pairs = channel_pairs(rope)
    first, second = pairs.unbind(1)
    start, index = int(first[0]), torch.arange(len(pairs))
    plus = f" + {start}" if start else ""
    if torch.equal(first, start + index) and torch.equal(second, first + len(pairs)):
        text = f"pair i: channels i{plus} and i + {start + len(pairs)}"
    elif torch.equal(first, start + 2 * index) and torch.equal(second, first + 1):
        text = f"pair i: channels 2i{plus} and 2i + {start + 1}"
    else:
        text = "pair"
    passing = rope.head_dim - rope.rotary_dim
    return f"{text}; {passing} of {rope.head_dim} channels do not rotate" if passing else text

"""Find a preset by its name or by its id on Hugging Face."""

import difflib
import re
from collections.abc import Collection, Mapping
from functools import cache
from types import MappingProxyType
from typing import TypeVar

from rope_core.presets import built_in

P = TypeVar("P")

SOURCE = re.compile(r"https://huggingface\.co/([^/#]+/[^/#]+)/blob/")

MAX_NAME = 128
"""Characters of a name that is compared with those of presets."""


@cache
def hugging_face_ids() -> Mapping[str, str]:
    """Return the names of built-in presets by their ids on Hugging Face, in lower case."""
    matches = {name: SOURCE.match(preset.source) for name, preset in built_in().items()}
    return MappingProxyType({match[1].lower(): name for name, match in matches.items() if match})


def find(name: str, presets: Mapping[str, P]) -> P | None:
    """Return a preset by its name or its id on Hugging Face, None if there is none.

    Case does not matter. The id is that of a built-in preset, or of the one that replaces it.
    """
    key = name.lower()
    return presets.get(name) or presets.get(key) or presets.get(hugging_face_ids().get(key, ""))


def nearest(name: str, presets: Collection[str]) -> str | None:
    """Return the preset whose name is most like `name`, None if no name is like it.

    The longest name that `name` begins with is the nearest: fine-tuned models add to the name of
    their base model. Then that of which `name` is the beginning, without its punctuation.
    """
    model = name[:MAX_NAME].lower().rpartition("/")[2]
    if bases := [preset for preset in presets if model.startswith(f"{preset}-")]:
        return max(bases, key=len)
    letters = _letters(model)
    if longer := [preset for preset in presets if letters and _letters(preset).startswith(letters)]:
        return min(longer, key=len)
    names = difflib.get_close_matches(model, presets, n=1)
    return names[0] if names else None


def _letters(name: str) -> str:
    return "".join(filter(str.isalnum, name))

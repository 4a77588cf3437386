"""Colours of numbers and of the words for bands, in sentences."""

import re

from rich.text import Text

NUMBER = re.compile(
    r"(?<![\w.-])-?\d+(?:[\u2009\u202f\u00a0., ]\d{3})*(?:\.\d+)?(?:e[+-]?\d+)?(?![\w-])"
)

BANDS = (
    ("kept", re.compile(r"\d+(?: pairs?)? (?:keeps? (?:its|their) frequency|kept)")),
    ("blended", re.compile(r"\d+(?: pairs?)? (?:is |are )?blended")),
    ("divided", re.compile(r"\d+(?: pairs?)? (?:is |are )?divided(?: by [\d.]*\d)?")),
)


def highlight(sentence: str) -> Text:
    """Return a sentence with colours; the words are the same."""
    text = Text(sentence)
    text.highlight_regex(NUMBER, "number")
    for style, pattern in BANDS:
        text.highlight_regex(pattern, style)
    return text

"""What a known mistake is: a function from a right call to wrong ones, with its texts."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from rope_core.diagnosis.calls import RotaryCall

Evidence = Literal["rotation", "table", "frequencies", "attention"]
EVERY: tuple[Evidence, ...] = get_args(Evidence)

Named = tuple[str, Mapping[str, Any]]
"""Code and parameters of a mistake."""

Wrong = tuple[Mapping[str, Any], Any]
"""Parameters of a mistake, and the call with that mistake."""

Find = Callable[..., Iterator[Wrong]]
"""`find(call, clues)` returns the calls that a mistake makes of a right one: as many as there are
values that the evidence may have."""

PARTS = ("Looks like", "Why", "Hugging Face", "vLLM", "llama.cpp", "MLX", "Source")
"""Parts of the docstring of a mistake, in their order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """The parameter of a rotation that may be any number: the evidence decides which."""

    parameter: str
    value: Callable[[RotaryCall], float | None]
    """Return the number of a call; None for a call that has no such number."""

    vary: Callable[[RotaryCall, float], RotaryCall]
    """`vary(call, number)` returns the call with another number.

    Raises ConfigError if the call cannot have that number.
    """

    starts: Callable[[RotaryCall], Iterable[float]]
    """Return numbers so close together that one of them is near to any that occurs."""

    is_ratio: bool = True
    """Whether numbers differ by ratios rather than by sums."""

    is_whole: bool = False


@dataclass(frozen=True, slots=True)
class Mistake:
    """A mistake that is known."""

    code: str
    find: Find

    evidence: tuple[Evidence, ...]
    """Kinds of evidence that can show it."""

    text: str
    """Template of a sentence, with the parameters and `expected_*` in braces."""

    remedy: str
    summary: str
    """First paragraph of the docstring."""

    parts: Mapping[str, str]
    """Texts of `PARTS`, for the documentation."""

    number: Number | None = None
    """How to fit the parameter, if it may be any number. `find` returns values by name only."""


CODES = (
    *("not_rotated", "rotated_twice", "direction_reversed"),
    *("layout_swapped", "layout_mixed", "layout_permuted"),
    *("wrong_base", "scaling_ignored", "scaling_other_type", "factor_wrong"),
    *("original_length_wrong", "truncate_wrong", "beta_swapped", "longrope_other_list"),
    *("gain_missing", "gain_twice", "gain_wrong", "partial_ignored", "rotary_dim_wrong"),
    *("exponent_width_wrong", "slice_at_other_end", "position_offset", "position_scaled"),
    *("padding_counted", "axis_mistaken", "positions_rounded", "angles_rounded"),
    *("axes_ignored", "axes_order", "sections_wrong", "layer_type_wrong", "nope_layer_rotated"),
    *("config_of_other_version", "scale_wrong", "softmax_scale_missing_mscale"),
    *("q_not_rotated", "k_not_rotated", "v_rotated", "causal_top_left", "causal_missing"),
    *("window_off_by_one", "window_ignored", "chunk_ignored", "softcap_missing", "softcap_wrong"),
    *("sinks_missing", "mask_ignored", "heads_tiled"),
    *("lse_base_2", "lse_without_sink", "lse_shifted"),
)
"""All codes, in the order in which equally good explanations are told."""


def mistake(
    *evidence: Evidence, text: str, remedy: str, number: Number | None = None
) -> Callable[[Find], Mistake]:
    """Make a mistake of a function: its name is the code, its docstring the documentation."""

    def make(find: Find) -> Mistake:
        doc = inspect.cleandoc(find.__doc__ or "")
        summary = " ".join(doc.split("\n\n", 1)[0].split())
        parts: dict[str, str] = {}
        name = None
        for line in doc.splitlines():
            title, colon, rest = line.partition(": ")
            if colon and title in PARTS:
                name = title
                parts[name] = rest.strip()
            elif name is not None and line.strip():
                parts[name] += f" {line.strip()}"
        return Mistake(find.__name__, find, evidence, text, remedy, summary, parts, number)

    return make

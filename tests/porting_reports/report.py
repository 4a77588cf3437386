"""A public report: where it is, the numbers of its code, and the mistakes that explain them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.porting_reports.ported import Numbers

PARAMETERS = {
    "layout_swapped": "layout",
    "wrong_base": "theta",
    "scaling_ignored": "rope_type",
    "factor_wrong": "factor",
    "original_length_wrong": "original_max_position_embeddings",
    "truncate_wrong": "truncate",
    "longrope_other_list": "list",
    "gain_wrong": "gain",
    "gain_twice": "gain",
    "partial_ignored": "rotary_dim",
    "rotary_dim_wrong": "rotary_dim",
    "exponent_width_wrong": "width",
    "position_offset": "offset",
    "position_scaled": "scale",
    "positions_rounded": "dtype",
    "angles_rounded": "dtype",
    "sections_wrong": "mrope_section",
    "layer_type_wrong": "layer_type",
    "config_of_other_version": "compat",
    "softmax_scale_missing_mscale": "scale",
}


@dataclass(frozen=True)
class Report:
    """What the code of a report is asked, and what it computes."""

    rope: Any
    evidence: Numbers
    verdict: str = "explained"
    """Of a report without mistakes the docstring tells why no mistake is named."""


@dataclass(frozen=True)
class Item:
    """A row of the table: number among the 39 items, title, thread, and mistakes."""

    number: int
    title: str
    source: str
    make: Callable[[], Report]
    mistakes: Mapping[str, Any] = field(default_factory=dict)
    """Value of the parameter of each code; None for codes without."""

    @property
    def name(self) -> str:
        """Name of the test."""
        return f"{self.number}-{self.make.__name__}"

    def expected(self) -> dict[str, dict[str, Any]]:
        """Return the parameters of each code."""
        return {
            code: {} if value is None else {PARAMETERS[code]: value}
            for code, value in self.mistakes.items()
        }


REPORTS: list[Item] = []


def report(
    number: int, title: str, source: str, **mistakes: Any
) -> Callable[[Callable[[], Report]], Callable[[], Report]]:
    """Add a report to the table, with the mistakes that explain its numbers."""

    def add(make: Callable[[], Report]) -> Callable[[], Report]:
        REPORTS.append(Item(number, title, source, make, mistakes))
        return make

    return add

"""What `diagnose` says of the numbers of public reports."""

import warnings
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest

from rope_core.diagnosis.diagnose import diagnose
from tests.diagnosis_oracle.judge import same_parameters, told
from tests.porting_reports.report import REPORTS, Item

for section in ("layouts", "configurations", "scalings", "positions", "precision"):
    import_module(f"tests.porting_reports.{section}")

NO_NUMBERS = {15: "an odd rotary width is refused when the config is read"}
"""Items that a request cannot show."""


def rows() -> Iterator[Any]:
    """Return the reports by name."""
    for item in REPORTS:
        yield pytest.param(item, id=item.name)


@pytest.mark.parametrize("item", list(rows()))
def test_diagnosis(item: Item) -> None:
    report = item.make()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        diagnosis = diagnose(report.rope, **report.evidence)
    assert diagnosis.verdict == report.verdict, told(diagnosis)
    if not item.mistakes:
        return
    first = {one.code: one.parameters for one in diagnosis.explanations[0].mistakes}
    expected = item.expected()
    assert first.keys() == expected.keys()
    assert all(same_parameters(expected[code], first[code]) for code in expected), first


def test_every_item_is_here() -> None:
    assert {item.number for item in REPORTS} | NO_NUMBERS.keys() == set(range(1, 40))


def test_thirty_items_are_named() -> None:
    assert len({item.number for item in REPORTS if item.mistakes}) >= 30

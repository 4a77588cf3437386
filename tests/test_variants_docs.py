"""The page of formulas knows every variant, scheme and layout, and its figures are measured."""

import re
from typing import get_args

import pytest

from rope_core import SCHEMES, VARIANTS, Layout
from rope_core.accuracy import POSITIONS, angle_errors
from rope_core.config import Rounding
from rope_core.hf.families import families
from rope_core.hf.resolve import COMPATS
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "variants.md").read_text()
ENTRIES = {**VARIANTS, **SCHEMES}


def section(title):
    """Return what is under a heading, up to the next one of its kind or a higher one."""
    level = title.split(" ")[0]
    _, found, rest = PAGE.partition(f"\n{title}\n")
    assert found, f"docs/variants.md has no section {title}"
    return re.split(rf"\n#{{2,{len(level)}}} ", rest)[0]


def rows(text):
    """Return the cells of each row of the tables of `text`, without their heads."""
    tables = re.findall(r"^\|[-:|]+\|\n((?:\|.*\n?)+)", text, re.MULTILINE)
    return [line.strip("| ").split(" | ") for table in tables for line in table.splitlines()]


def named(cell):
    return re.findall(r"`([^`]+)`", cell)


@pytest.mark.parametrize("name", ENTRIES)
def test_each_has_a_section_with_its_parameters_models_and_source(name):
    entry, text = ENTRIES[name], section(f"### `{name}`")
    told = {named(parameter)[0]: default for parameter, default, _ in rows(text)}
    assert told == {name: shown(parameter) for name, parameter in entry.parameters.items()}
    assert f"\nModels: {entry.models}<br>\nSource: {entry.source}\n" in f"{text}\n"


def shown(parameter):
    if parameter.required:
        return "required"
    default = parameter.default
    return "none" if default is None else str(default).lower().replace("'", "")


def test_there_is_no_section_of_anything_else():
    assert re.findall(r"^### `(\w+)`$", PAGE, re.MULTILINE) == [*ENTRIES]


def test_every_layout_and_rounding_is_described():
    assert [named(row[0])[0] for row in rows(section("## Layouts"))] == [*get_args(Layout)]
    described = {named(row[0])[0] for row in rows(section("## Numerics")) if named(row[0])}
    assert {"once", *described} == {*get_args(Rounding)}


def test_errors_of_arithmetic_are_as_measured():
    measured = angle_errors()
    told = {
        int(row[0].replace(",", "")): (float(row[1]), float(row[2]))
        for row in rows(section("## Numerics"))
        if row[0][0].isdigit()
    }
    assert tuple(told) == POSITIONS
    for position, errors in told.items():
        for found, arithmetic in zip(errors, ("hf", "float64"), strict=True):
            exact = measured[arithmetic][position]
            assert found == pytest.approx(exact, rel=0.05), f"{arithmetic}: {exact:.2g}"


def test_families_round_as_the_page_says():
    count = re.search(r"of which (\d+) are read from a config\.json", " ".join(PAGE.split()))
    assert count, "docs/variants.md says how many families are read"
    assert int(count[1]) == len(families()), "the number of families in docs/variants.md"
    for row in rows(section("## Numerics")):
        rounding = named(row[0])
        for family in named(row[-1]) if rounding else ():
            assert [families()[family].rounding] == rounding, family


def test_versions_are_those_that_can_be_followed():
    text = section("## Versions of transformers")
    for version in COMPATS:
        assert f"`{version}`" in text
    assert len(rows(text)) == 11


@pytest.mark.parametrize(
    "figure", ["30527.7", "1.1386294", "1.3465736", "1.3688879", "8.0927791", "17.3980245"]
)
def test_figures_that_the_suite_computes_are_in_the_page(figure):
    """tests/core/test_variants.py computes them."""
    assert figure in PAGE

"""docs/deploy/sizing.md: its figures are those of other pages, and its computations are right."""

import math
import re

import pytest

from docs.generate import metrics_page
from service.settings import PREFIX, Settings
from tests.conftest import ROOT
from tests.guide import Guide

PAGE = (ROOT / "docs" / "deploy" / "sizing.md").read_text()
MEASURED = (ROOT / "docs" / "performance.md").read_text()
BYTES = {"bfloat16": 2, "float32": 4}


def rows(heading: str, columns: int) -> list[list[str]]:
    """Return the cells of the tables below a heading that have so many columns."""
    part = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    table = [line.strip("| ").split(" | ") for line in part.splitlines() if line.startswith("| ")]
    return [cells for cells in table if len(cells) == columns]


def test_rates_are_those_of_the_benchmarks():
    found = rows("Requests a second of a replica", 5)[1:]
    assert len(found) >= 6
    for call, connections, *figures in found:
        start = f"| {call}, {connections} | "
        (measured,) = [line for line in MEASURED.splitlines() if line.startswith(start)][:1]
        assert [cell in measured.split(" | ") for cell in figures] == [True] * 3, call


@pytest.mark.parametrize("row", rows("Memory of a replica", 7)[1:], ids=lambda row: row[0])
def test_keys_and_values_of_a_model_are_computed(row):
    _, layers, heads, width, dtype, kib, mib = row
    token = 2 * int(layers) * int(heads) * int(width) * BYTES[dtype]
    assert token == int(kib) * 1024
    assert token * 8192 == int(mib.replace(",", "")) << 20


def test_the_smallest_limit_fits_its_own_defaults():
    limit = float(re.search(r"\*\*([\d.]+) GiB\*\* is the smallest", PAGE)[1])
    assert 0.7 + limit / 4 + limit / 4 + 0.2 <= limit
    smaller = limit - 0.25
    assert 0.7 + smaller / 4 + smaller / 4 + 0.2 > smaller


def test_calls_have_all_their_rows():
    found = [cells[:2] for cells in rows("Requests a second of a replica", 5)[1:]]
    calls = {call for call, _ in found}
    assert found == [[call, n] for call in dict(found) for n in ("1", "8", "64")], calls


def test_the_example_is_computed():
    of_call = {
        cells[1]: cells[2]
        for cells in rows("Requests a second of a replica", 5)
        if cells[0] == "attention S=64"
    }
    rate = min(int(of_call[n].replace(",", "")) for n in ("8", "64"))
    assert f"one core does {rate:,} a second" in PAGE
    needed = math.ceil(6000 / (0.6 * rate))
    assert f"{6000 / (0.6 * rate):.1f}, rounded up {needed}" in PAGE
    replicas = needed + 1
    assert f"**{replicas} replicas**" in PAGE
    assert f"{6000 / (needed * rate):.0%}".replace("%", " %") in PAGE
    kv_gib = 40 / 0.8 / replicas
    assert f"have {kv_gib:g} GiB each" in PAGE
    assert f"ROPE_KV_BYTES={int(kv_gib * 2**30)}" in PAGE
    assert f"**{0.7 + 2 + kv_gib + 0.2:.1f} GiB**" in PAGE
    token_s = 32 * 0.0065
    assert f"{token_s:.2f} s of a core" in PAGE
    assert f"give {replicas / token_s:.0f} tokens a second" in PAGE


def test_what_is_computed_for_a_gpu():
    layer = 2 * 8192 * 8 * 128 * 2
    assert layer == 32 << 20
    assert f"{round(4.8e12 / layer, -3):,.0f} calls/s" in PAGE
    assert f"carry {1.25e9 / layer:.0f} of" in PAGE
    assert f"at most {round(64e9 / layer, -2):,.0f}" in PAGE


def test_settings_and_metrics_of_the_page_exist():
    names = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    assert {*re.findall(r"\bROPE_[A-Z_]+", PAGE)} <= names
    known = {*re.findall(r"^\| `(\w+)`", metrics_page(), re.MULTILINE)}
    used = {name.removesuffix("_total") for name in re.findall(r"\brope_[a-z_]+\b", PAGE)}
    assert used <= known


def test_defaults_are_those_of_the_settings():
    for name, default, _ in rows("Queue, timeouts, connections", 3)[1:]:
        if re.fullmatch(r"[\d.]+ s", default) and name.startswith("`"):
            field = Settings.model_fields[name.strip("`").removeprefix(PREFIX).lower()]
            assert field.default == float(default.removesuffix(" s")), name


def test_the_page_runs(server_url, serve, tmp_path):
    Guide(server_url, serve, tmp_path).follow(PAGE)

"""The view that compares: what it says is what `rope_core` says, in both languages."""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch

from rope_core import compare, resolve, rotate
from rope_core.presets import built_in
from tests.conftest import ROOT
from tests.page.conftest import assert_no_overflow

ROTATING = [
    name
    for name in sorted(built_in())
    if (found := resolve({"preset": name, "layer": 0})).rope is not None
    and found.rope.num_axes == 1
]
PAIRS = [*pairwise(ROTATING[::5]), ("llama-3.1-8b", "llama-3-8b"), ("mpt-7b", "llama-3-8b")]

I18N = ROOT / "service" / "page" / "static" / "i18n"
WORDS = {name: json.loads((I18N / f"{name}.json").read_text()) for name in ("en", "zh")}

FORMS = ("equal", "rounding", "permuted")
TEXT = {
    "equal": ({"head_dim": 64}, {"head_dim": 64, "theta": 10000}),
    "rounding": ({"head_dim": 64, "arithmetic": "hf"}, {"head_dim": 64}),
    "permuted": ({"head_dim": 64}, {"head_dim": 64, "layout": "interleaved"}),
}


def layer_0(rope):
    return {"preset": rope, "layer": 0} if isinstance(rope, str) else rope


def verdict(found):
    """Return the form of the verdict, from the answer of the library."""
    if not found.same:
        return "permuted" if found.permutation else "different"
    names = {each.parameter for each in found.differences}
    is_equal = torch.equal(found.tensors["inv_freq"], found.tensors["inv_freq_other"])
    return "equal" if is_equal and not names & {"arithmetic", "rounding"} else "rounding"


def digits(number):
    return f"{number:,}".replace(",", "\u202f")


def fill(page, side, value):
    """Choose a preset or write parameters as a source."""
    card = page.locator(f".source.{side}")
    if isinstance(value, str):
        card.locator(".seg button").nth(0).click()
        field = card.locator("input[type=text]")
    else:
        card.locator(".seg button").nth(1).click()
        field, value = card.locator("textarea"), json.dumps(value)
    field.fill(value)
    field.press("Tab")


def module(page, name, expression, *arguments):
    """Evaluate an expression over `m`, a module of the page, and `x`, the arguments."""
    script = f"async (x) => {{ const m = await import('./{name}.js'); return {expression}; }}"
    return page.evaluate(script, list(arguments))


def test_the_verdict_and_the_first_position_are_those_of_the_library(open_view):
    """Of pairs of presets, changed by the address of one page."""
    page = open_view("compare")
    for a, b in PAIRS:
        found = compare(layer_0(a), layer_0(b))
        page.evaluate("(hash) => { location.hash = hash; }", f"a={a}&b={b}&a_layer=0&b_layer=0")
        page.wait_for_function(
            """([a, b]) => [...document.querySelectorAll(".source .name")].map((e) => e.textContent)
               .join() === `${a},${b}` && document.querySelector("[aria-busy=false] #selftest")""",
            arg=[a, b],
        )
        expected = WORDS["en"][f"compare.{form}"] if (form := verdict(found)) in FORMS else None
        if expected is None:
            start = "They differ"
            if found.first_position is not None:
                start += f" from position {digits(found.first_position)} on"
            page.wait_for_function(
                "(start) => document.querySelector('h1').textContent.startsWith(start + ':')",
                arg=start,
            )
            shown = page.locator(".firsts dd").first.text_content()
            assert shown == (
                "never" if found.first_position is None else digits(found.first_position)
            )
        else:
            assert page.text_content("h1") == expected
        names = page.locator(".parameters .differs code").all_text_contents()
        assert names[: len(found.differences)] == [each.parameter for each in found.differences]


@pytest.mark.parametrize("language", ["en", "zh"])
def test_each_form_of_the_verdict(open_view, axe, language):
    page = open_view("compare", language=language, color_scheme="dark", width=390)
    for form, (a, b) in TEXT.items():
        fill(page, "a", a)
        fill(page, "b", b)
        assert verdict(compare(a, b)) == form
        words = WORDS[language][f"compare.{form}"]
        page.wait_for_function(
            "(text) => document.querySelector('h1').textContent === text", arg=words
        )
    page.wait_for_selector("#cosine")
    assert page.text_content("pre code") == f"p = {[*compare(a, b).permutation]}"
    assert_no_overflow(page)
    if language == "zh":
        axe(page)
    page.reload()  # the texts are in the address
    page.wait_for_selector("#selftest")
    assert page.text_content("h1") == words


def cosine(a, b, positions):
    """Return the mean of the cosine over all vectors: of the matrices of both rotations."""
    width = resolve(a).rope.head_dim
    rows = torch.eye(width)[:, None, None].expand(-1, len(positions), 1, -1)
    at = torch.tensor(positions).expand(width, -1)
    turned = [rotate(rows, rope=rope, positions=at).double() for rope in (a, b)]
    return (turned[0] * turned[1]).sum((0, 2, 3)) / width


CURVES = [
    ("llama-3.1-8b", "llama-3-8b"),
    ({"head_dim": 64}, {"head_dim": 64, "layout": "interleaved", "theta": 500.0}),
    ({"head_dim": 64, "layout": "interleaved"}, {"head_dim": 64, "layout": "interleaved_to_half"}),
    ({"head_dim": 64, "rotary_dim": 16}, {"head_dim": 64, "rotary_dim": 32, "trailing": True}),
    ({"head_dim": 64}, {"head_dim": 64, "negative": True}),
]


def test_the_cosine_is_that_of_the_matrices(open_view):
    page = open_view("compare")
    positions = [1, 2, 5, 9]  # columns of the curve of one position each
    for a, b in CURVES:
        fill(page, "a", a)
        fill(page, "b", b)
        page.wait_for_selector("[aria-busy=false] #cosine")
        figure = page.locator("section:has(#cosine)")
        figure.get_by_role("button", name="Table").click()
        rows = [row.split("\t") for row in figure.locator("tbody").inner_text().splitlines()]
        means = {float(row[0]): float(row[1].replace("\u2212", "-")) for row in rows}
        expected = cosine(layer_0(a), layer_0(b), positions)
        assert [means[each] for each in positions] == pytest.approx(expected.tolist(), abs=2e-6)
        figure.get_by_role("button", name="Table").click()


def test_a_column_of_the_curve_holds_every_position(open_view):
    page = open_view("compare")
    terms = [{"speed": 0, "cos": 0.25, "sin": 0}, {"speed": 1.3, "cos": 0.5, "sin": 0.1}]
    terms.append({"speed": 0.01, "cos": 0.25, "sin": -0.1})
    found = module(page, "compare-numbers", "await m.curveOf(x[0], 5000)", terms)
    positions = np.arange(1, 5001)
    values = sum(
        each["cos"] * np.cos(each["speed"] * positions)
        + each["sin"] * np.sin(each["speed"] * positions)
        for each in terms
    )
    columns = found["curve"]
    assert [column["position"] for column in columns[1:]] == [c["end"] + 1 for c in columns[:-1]]
    assert (columns[0]["position"], columns[-1]["end"]) == (1, 5000)
    for column in columns:
        part = values[column["position"] - 1 : column["end"]]
        measured = [column["lowest"], column["highest"], column["mean"]]
        assert measured == pytest.approx([part.min(), part.max(), part.mean()], abs=1e-9)
    assert found["below"] == int(positions[values < 0.99][0])


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_pair_is_chosen_by_keys(open_view, language):
    fragment = {"a": "llama-3.1-8b", "b": "llama-3-8b"}
    page = open_view("compare", fragment=fragment, language=language)
    page.locator("section:has(#ratio) svg[role=slider]").focus()
    tensors = compare("llama-3.1-8b", "llama-3-8b").tensors
    ratios = (tensors["inv_freq_other"] / tensors["inv_freq"]).tolist()
    for key, pair in (("ArrowRight", 33), ("End", 63), ("PageUp", 63), ("ArrowLeft", 62)):
        page.keyboard.press(key)
        text = WORDS[language]["compare.ratio.readout"].partition(" A {")[0].partition("A {")[0]
        expected = text.format(pair=pair, ratio=f"\u00d7 {ratios[pair]:.4g}").strip(". ")
        page.wait_for_function(
            "(text) => document.querySelector('.fig .cap').textContent.includes(text)",
            arg=expected,
        )
    page.wait_for_function("() => location.hash.includes('pair=62')")


def test_refusals_are_sentences_beside_the_source(open_view):
    page = open_view("compare", fragment={"a": "llama-3-8b", "b": "no<b>such"})
    assert "no<b>such" in page.text_content(".source.b .problem")
    assert page.locator(".source.b .problem b").count() == 0
    open_view.forgive("status of 422")
    fill(page, "b", {"head_dim": 3})
    page.wait_for_function(
        "() => !document.querySelector('.source.b .problem')?.textContent.includes('such')"
    )
    page.wait_for_selector(".source.b .problem")
    open_view.forgive("status of 422")
    page.locator(".source.b textarea").fill('{"theta": ')
    page.locator(".source.b textarea").press("Tab")
    page.wait_for_function(
        "() => document.querySelector('.source.b .problem')?.textContent.includes('JSON')"
    )


def test_a_fresh_view_is_light(open_view):
    """At most 12 requests, and no more than what is drawn."""
    page = open_view("compare")
    page.wait_for_load_state("networkidle")
    assert len(open_view.requests) <= 12, open_view.requests
    assert page.locator("datalist option").count() == 0
    page.locator(".source.a input").focus()
    page.wait_for_function(
        "(count) => document.querySelector('datalist').options.length === count",
        arg=len(built_in()),
    )
    assert page.locator("*").count() <= 1500

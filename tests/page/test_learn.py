"""Learn: the laws that the lessons teach, in a real browser against a real service."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import numpy as np
import pytest

from tests.page.conftest import assert_no_overflow

STATIC = Path(__file__).parents[2] / "service/page/static"
LESSONS = range(1, 8)
WAYS = ("linear", "dynamic", "yarn", "llama3", "longrope")


@pytest.fixture
def lesson(open_view):
    """`lesson(3, m=11)` opens a lesson with its figures."""

    def open_lesson(number, *, view="learn", **state):
        values = {name: state.pop(name) for name in list(state) if name not in OPTIONS}
        page = open_view(
            view,
            fragment={"lesson": number, **values},
            ready=f"#lesson-{number}[data-ready]",
            **state,
        )
        page.wait_for_selector(f"#lesson-{number} svg[role]")
        return page

    return open_lesson


OPTIONS = {"language", "width", "color_scheme", "reduced_motion", "before", "javascript"}


def text_of(page, selector):
    return page.locator(selector).first.inner_text()


def number(text):
    return float(text.replace("\u2212", "-").replace("\u202f", ""))


def set_to(page, name, value):
    """Type a value into the number field of a control."""
    page.fill(f"[id='{name}-number']", str(value))
    page.locator(f"[id='{name}-number']").blur()


def settled(page):
    """Wait until all that was put off to animation frames is drawn."""
    page.evaluate(
        "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
    )


class Outline(HTMLParser):
    """Ids, addresses, parts and formulas of a page; text only where it stands in a formula."""

    def __init__(self, path):
        super().__init__()
        self.items = []
        self._math = 0
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self._math += tag == "math"
        kept = [(k, v) for k, v in attrs if k in ("id", "data-part", "class")]
        links = [v for k, v in attrs if k == "href" and v.startswith(("#", "https:"))]
        if kept or links or self._math:
            self.items.append((tag, kept, links))

    def handle_endtag(self, tag):
        self._math -= tag == "math"

    def handle_data(self, data):
        if self._math:
            self.items.append(data)

    def of(self, *names):
        return [
            value
            for item in self.items
            if isinstance(item, tuple)
            for name, value in item[1]
            if name in names
        ]


def test_the_chinese_lessons_have_the_ids_and_the_formulas_of_the_english_ones():
    english, chinese = (Outline(STATIC / name) for name in ("learn.html", "learn-zh.html"))
    ids = english.of("id")
    assert ids == chinese.of("id")
    assert english.of("data-part") == chinese.of("data-part")
    assert len(ids) == len(set(ids))
    assert {f"lesson-{each}" for each in LESSONS} <= set(ids)
    formulas = [
        sorted(re.findall(r"<math.*?</math>", (STATIC / name).read_text(), re.S))
        for name in ("learn.html", "learn-zh.html")
    ]
    assert set(formulas[0]) == set(formulas[1])


@pytest.mark.parametrize(
    ("view", "word"), [("learn", "Why a circle."), ("learn-zh", "为什么是圆。")]
)
def test_the_text_is_there_without_javascript(open_view, view, word):
    page = open_view(view, javascript=False, language="zh" if view == "learn-zh" else "en")
    for each in LESSONS:
        section = page.locator(f"#lesson-{each}")
        assert section.is_visible()
        assert section.locator(".under").is_visible()
        assert len(section.inner_text()) > 300
        assert all(
            box["width"] > 0
            for box in (math.bounding_box() for math in section.locator("math").all())
        )
    assert word in page.locator("#lesson-1").inner_text()
    assert page.locator("noscript").count() == 0
    assert_no_overflow(page)


def test_print_has_all_lessons(lesson):
    page = lesson(2)
    assert [page.locator(f"#lesson-{each}").is_visible() for each in (1, 2, 7)] == [
        False,
        True,
        False,
    ]
    page.emulate_media(media="print")
    assert all(page.locator(f"#lesson-{each}").is_visible() for each in LESSONS)


@pytest.mark.parametrize(
    ("language", "color_scheme", "width"),
    [("en", "light", 1440), ("zh", "dark", 390)],
)
def test_all_lessons_are_clean(lesson, axe, language, color_scheme, width):
    view = {"en": "learn", "zh": "learn-zh"}[language]
    page = lesson(1, view=view, language=language, color_scheme=color_scheme, width=width)
    for each in LESSONS:
        page.evaluate(f"location.hash = 'lesson={each}'")
        page.wait_for_selector(f"#lesson-{each}[data-ready] svg[role]")
        assert_no_overflow(page)
        if (each in (2, 4, 7)) == (width < 980):
            axe(page)


def test_a_fresh_view_makes_at_most_12_requests(lesson, open_view):
    for each in (1, 4, 5):
        open_view.requests.clear()
        lesson(each).wait_for_load_state("networkidle")
        own = [url for url in open_view.requests if not url.startswith("data:")]
        assert len(own) <= 12, own


def test_lesson_1_stops_at_pi_and_repeats_after_a_turn(lesson):
    page = lesson(1)
    page.get_by_role("button", name="π", exact=True).click()
    settled(page)
    assert text_of(page, "#lesson-1 .big") == "\u22121.000000 + 0.000000 i"
    seen = []
    for turns in (0, 2, -2):
        set_to(page, "x", turns)
        settled(page)
        seen.append(text_of(page, "#lesson-1 .big"))
    assert seen == ["1.000000 + 0.000000 i"] * 3


def test_lesson_2_has_the_same_digits_in_three_forms(lesson):
    page = lesson(2)
    for angle in (-180, -97, 0, 33, 90, 171):
        set_to(page, "a", angle)
        settled(page)
        forms = [
            text_of(page, f"#form-{name} .digits") for name in ("complex", "matrix", "elementwise")
        ]
        assert len(set(forms)) == 1
        turned = (1.2 + 0.7j) * np.exp(1j * np.radians(angle))
        np.testing.assert_allclose(
            [number(n) for n in forms[0].split()], [turned.real, turned.imag], atol=6e-7
        )
        rows = page.locator("#lesson-2 .laws tr").all()
        cells = [row.locator("td").all_inner_texts() for row in rows]
        assert len(cells) == 3
        assert all(one == other for one, other in cells)


def test_lesson_3_the_score_depends_on_the_distance_alone(lesson):
    page = lesson(3, m=11, n=5)
    score = "#score"
    first = text_of(page, score)
    assert number(first) == pytest.approx(1.873916, abs=1e-6)

    def positions():
        settled(page)
        return [int(page.input_value(f"[id='{name}-number']")) for name in "mn"]

    page.focus("#m")  # slider
    for _ in range(3):
        page.keyboard.press("ArrowRight")
        settled(page)
    assert (positions(), text_of(page, score)) == ([14, 8], first)
    set_to(page, "n", 40)  # number field
    assert (positions(), text_of(page, score)) == ([46, 40], first)
    page.focus("#arrow-m")  # keys on the arrow
    page.keyboard.press("PageDown")
    assert (positions(), text_of(page, score)) == ([38, 32], first)
    page.keyboard.press("End")  # the key stops at 64 - 6, the query at 64
    assert (positions(), text_of(page, score)) == ([64, 58], first)
    set_to(page, "m", 11)
    drag(page, "#arrow-m", degrees=60)
    assert (positions(), text_of(page, score)) == ([16, 10], first)
    drag(page, "#arrow-n", degrees=-84)
    assert (positions(), text_of(page, score)) == ([9, 3], first)
    page.uncheck("#lock")
    page.focus("#m")
    page.keyboard.press("ArrowRight")
    assert positions() == [10, 3]
    assert text_of(page, score) != first


def drag(page, selector, degrees):
    """Drag the tip of an arrow around the origin, in small steps."""
    tip = page.locator(f"{selector} .target").bounding_box()
    plane = page.locator("#lesson-3 svg.square").bounding_box()
    centre = complex(plane["x"] + plane["width"] / 2, plane["y"] + plane["height"] / 2)
    start = complex(tip["x"] + tip["width"] / 2, tip["y"] + tip["height"] / 2) - centre
    page.mouse.move((start + centre).real, (start + centre).imag)
    page.mouse.down()
    for part in np.linspace(0, 1, 16)[1:]:
        at = centre + start * np.exp(-1j * np.radians(degrees) * part)
        page.mouse.move(at.real, at.imag)
        settled(page)
    page.mouse.up()


def test_lesson_3_every_printed_digit_holds_at_all_positions(lesson):
    page = lesson(3)
    kinds = page.evaluate(
        """async () => {
            const { score } = await import("./learn/distance.js");
            const { fixed } = await import("./learn/parts.js");
            const kinds = [];
            for (let gap = -64; gap <= 64; gap++) {
                const seen = new Set();
                for (let n = Math.max(0, -gap); n <= 64 && n + gap <= 64; n++) {
                    seen.add(fixed(score(n + gap, n)));
                }
                kinds.push([...seen]);
            }
            return kinds;
        }"""
    )
    q, k = 1.62 + 0.42j, 1.02 + 1.06j
    for gap, seen in zip(range(-64, 65), kinds, strict=True):
        expected = (q * np.conj(k) * np.exp(1j * gap * np.radians(12))).real
        assert len(seen) == 1
        assert number(seen[0]) == pytest.approx(expected, abs=6e-7)


def test_lesson_4_the_matrix_is_block_diagonal(lesson):
    page = lesson(4, p=11)
    frequencies = 10000.0 ** -np.array([0, 1 / 4, 2 / 4, 3 / 4])
    expected = np.zeros((8, 8))
    for block, angle in enumerate(11 * frequencies):
        cos, sin = np.cos(angle), np.sin(angle)
        expected[2 * block : 2 * block + 2, 2 * block : 2 * block + 2] = [[cos, -sin], [sin, cos]]
    turns = page.locator("#lesson-4 [data-cell=turn]").all_text_contents()
    blocks = [expected[r, c] for r in range(8) for c in (r & ~1, r | 1)]
    np.testing.assert_allclose([number(each) for each in turns], blocks, atol=6e-4)
    zeros = page.locator("#lesson-4 [data-cell=zero]").all_text_contents()
    assert zeros == ["0"] * 48
    assert page.locator("#lesson-4 [aria-labelledby=clocks] svg[role=img] > g").count() == 16
    waves = 2 * np.pi * 10000.0 ** (np.arange(64) / 64)
    assert f"11, {(waves <= 11).sum()} of the 64 pairs" in text_of(page, "#lesson-4")
    page.click("#lesson-4 [aria-labelledby=clocks] .tools button >> nth=0")
    rows = page.locator("#lesson-4 [aria-labelledby=clocks] tbody tr").all_inner_texts()
    shown = np.array([[float(each) for each in row.split("\t")] for row in rows])
    np.testing.assert_allclose(shown[:, 2], waves, rtol=1e-5)


COUNT_FRAMES = """
    window.counted = 0;
    window.realFrame = window.requestAnimationFrame.bind(window);
    window.requestAnimationFrame = (work) => { window.counted += 1; return realFrame(work); };
"""


def frames_at_rest(page):
    """Number of animation frames that are requested while ten frames pass."""
    return page.evaluate(
        """async () => {
            const pass = () => new Promise((done) => window.realFrame(done));
            for (let frame = 0; frame < 10; frame++) await pass();
            const before = window.counted;
            for (let frame = 0; frame < 10; frame++) await pass();
            return window.counted - before;
        }"""
    )


def test_no_animation_runs_where_motion_is_not_wanted(lesson):
    page = lesson(4, p=5, before=lambda page: page.add_init_script(COUNT_FRAMES))
    page.click("#play")
    page.wait_for_function("() => document.getElementById('p-number').value === '6'")
    assert frames_at_rest(page) == 0
    assert page.input_value("#p-number") == "6"
    page.evaluate("location.hash = 'lesson=7&step=0'")
    page.wait_for_selector("#lesson-7[data-ready] .seg")
    page.evaluate("window.counted = 0")
    page.locator("#lesson-7 .seg button").nth(2).click()
    page.wait_for_selector("#lesson-7 .plan .done >> nth=4")
    assert frames_at_rest(page) == 0


def test_nothing_plays_by_itself(lesson):
    def count(page):
        page.add_init_script(COUNT_FRAMES)

    page = lesson(4, p=5, reduced_motion="no-preference", before=count)
    assert frames_at_rest(page) == 0
    page.click("#play")
    page.wait_for_function("() => Number(document.getElementById('p-number').value) > 6")
    page.click("#play")
    assert frames_at_rest(page) == 0
    assert page.get_attribute("#play", "aria-pressed") == "false"


def test_lesson_5_the_curves_are_those_of_numpy(lesson):
    page = lesson(5)
    got = page.evaluate(
        """async () => {
            const module = await import("./learn/score.js");
            const { FAR, equalScores, randomScores, columnsOf, spread } = module;
            const frequencies = Array.from({ length: 64 }, (_, i) => 10000 ** (-i / 64));
            const equal = equalScores(frequencies), random = randomScores(frequencies);
            const places = Array.from(equal, (_, distance) => distance / 100);
            return {
                far: FAR, equal: [...equal], columns: columnsOf(equal, places),
                near: spread(random, 1, 1000), wide: spread(random, 10000, FAR),
            };
        }"""
    )
    distances = np.arange(got["far"] + 1)
    frequencies = 10000.0 ** (-np.arange(64) / 64)
    expected = sum(np.cos(distances * each) for each in frequencies) / 64
    np.testing.assert_allclose(got["equal"], expected, atol=1e-9)
    assert expected[0] == 1
    assert expected[1:].max() < 1
    for index, column in enumerate(got["columns"]):
        part = expected[100 * index : 100 * index + 100]
        named = [column[name] for name in ("lowest", "highest", "mean")]
        np.testing.assert_allclose(named, [part.min(), part.max(), part.mean()], atol=1e-9)
    # no decay: far away the random pairs spread like nearby, as 1 / sqrt(128)
    for value in (got["near"], got["wide"]):
        assert value == pytest.approx(128**-0.5, rel=0.25)


def test_lesson_5_a_larger_theta_makes_the_peak_wider(lesson):
    page = lesson(5, theta=1000)
    halves = []
    for theta in (1000, 10000, 100000, 1000000):
        before = text_of(page, "#half")
        set_to(page, "theta", theta)
        if halves:
            page.wait_for_function(
                "(before) => document.getElementById('half').innerText !== before", arg=before
            )
        halves.append(number(text_of(page, "#half")))
        scores = np.cos(np.outer(np.arange(33000), theta ** (-np.arange(64) / 64))).mean(1)
        assert halves[-1] == (scores < 0.5).argmax()
    assert halves == sorted(set(halves))


@pytest.mark.parametrize("way", WAYS)
def test_lesson_6_has_the_numbers_of_the_service(lesson, server, way):
    page = lesson(6, way=way, factor=8)
    page.wait_for_selector("#kept")
    link = page.get_attribute("#to-config", "href")
    assert link == page.get_attribute(".config-link", "href")
    state = {name: value[0] for name, value in parse_qs(urlsplit(link).fragment).items()}
    rope = (
        {"preset": state["preset"]}
        if "preset" in state
        else {"config": json.loads(state["config"])}
    )
    if "length" in state:
        rope["length"] = int(state["length"])
    answer = httpx.post(f"{server.url}/v1/resolve", json={"rope": rope}).json()
    shown = {name: number(text_of(page, f"#{name}")) for name in ("kept", "blended", "divided")}
    assert shown == {name: answer["scaling"][name] for name in shown}
    assert number(text_of(page, "#gain")) == pytest.approx(answer["attention_scaling"], rel=1e-4)
    after, before = (np.array(answer[name]["data"]) for name in ("inv_freq", "inv_freq_unscaled"))
    by = before / after
    # the sentences of the lesson
    if way == "linear":
        np.testing.assert_allclose(by, 8, rtol=1e-6)
    else:
        assert by[0] < 1.2
        assert by[-1] > 4
    assert (answer["attention_scaling"] > 1) == (way in ("yarn", "longrope"))
    if way == "dynamic":
        assert by[0] == 1
        assert (np.diff(by) > 0).all()
        short = {"rope": {**rope, "length": 4096}}
        found = httpx.post(f"{server.url}/v1/resolve", json=short).json()
        assert found["scaling"]["kept"] == 64


def test_lesson_7_order_matters_in_space_and_not_in_a_plane(lesson):
    page = lesson(7, a=70, b=40)
    x, y = np.radians([70, 40])
    about_x = np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
    about_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    gap = np.linalg.norm((about_y @ about_x - about_x @ about_y) @ np.ones(3))
    assert number(text_of(page, "#gap")) == pytest.approx(gap, abs=1e-6)
    assert text_of(page, "#flat-gap") == "0.000000"
    for cube in ("#cube-x", "#cube-y"):
        faces = page.locator(f"{cube} [data-face]").all()
        depths = [float(face.get_attribute("data-depth")) for face in faces]
        assert len(depths) == 6
        assert depths == sorted(depths)
    ends = [page.locator(cube).inner_html() for cube in ("#cube-x", "#cube-y")]
    page.locator("#lesson-7 .seg button").nth(0).click()
    page.wait_for_function("() => document.querySelectorAll('#lesson-7 .plan .done').length === 1")
    starts = [page.locator(cube).inner_html() for cube in ("#cube-x", "#cube-y")]
    assert ends[0] != ends[1]
    assert starts[0] == starts[1]


def test_the_texts_of_lesson_7_hold():
    """Powers of one turn obey the law of lesson 3, and every turn is a set of turns in planes."""
    random = np.random.default_rng(0)
    turn, _ = np.linalg.qr(random.normal(size=(8, 8)))
    if np.linalg.det(turn) < 0:
        turn[:, 0] *= -1
    power = np.linalg.matrix_power
    np.testing.assert_allclose(power(turn, 5).T @ power(turn, 12), power(turn, 7), atol=1e-12)
    values = np.linalg.eigvals(turn)
    np.testing.assert_allclose(abs(values), 1, atol=1e-12)
    np.testing.assert_allclose(sorted(values.imag), sorted(-values.imag), atol=1e-12)


def test_the_numbers_in_the_texts_hold():
    text = (STATIC / "learn.html").read_text(encoding="utf-8")
    last = 2 * np.pi * 10000 ** (126 / 128)
    assert f"{last:,.0f}".replace(",", "\u202f") in text
    assert f"{2 * np.pi * 500000 ** (126 / 128) / 1e6:.2f} million" in text
    assert f"{2 * np.pi:.2f} positions" in text
    assert 2 * np.pi * 10000 ** (126 / 128) > 4096 > 2 * np.pi  # slow pairs make a part of a turn


@pytest.mark.parametrize(
    ("each", "state"),
    [
        (1, {"x": -0.77}),
        (2, {"a": -131}),
        (3, {"m": 64, "n": 0, "lock": 0}),
        (4, {"p": 1024}),
        (5, {"t": 777}),
        (7, {"a": 33, "b": 145}),
    ],
)
def test_the_service_agrees(lesson, each, state):
    page = lesson(each, **state)
    page.click(f"#lesson-{each} .ask > button")
    largest = page.wait_for_selector(f"#lesson-{each} [data-largest]").get_attribute("data-largest")
    assert float(largest) <= 1e-6
    assert page.locator(f"#lesson-{each} .ask td.answer").count() >= 1
    assert "curl" in page.locator(f"#lesson-{each} .ask code").last.text_content()


def test_a_refusal_is_shown_as_text(lesson, open_view):
    detail = "<b>no</b> such rope"

    def refuse(page):
        page.route(
            "**/v1/rotate",
            lambda route: route.fulfill(status=422, json={"code": "config", "detail": detail}),
        )

    page = lesson(2, before=refuse)
    page.click("#lesson-2 .ask > button")
    assert page.wait_for_selector("#lesson-2 .ask .note").inner_text() == detail
    open_view.forgive("status of 422")


def test_lessons_by_keyboard_and_by_address(lesson):
    page = lesson(3, m=20, n=9)
    page.focus("#step-3")
    page.keyboard.press("ArrowDown")
    page.wait_for_selector("#lesson-4[data-ready]")
    assert page.evaluate("document.activeElement.id") == "step-4"
    assert page.get_attribute("#step-4", "aria-current") == "step"
    assert "lesson=4" in page.url
    assert "m=20" not in page.url
    page.keyboard.press("End")
    page.wait_for_selector("#lesson-7.shown")
    page.go_back()
    page.go_back()
    page.wait_for_selector("#lesson-3.shown")
    assert page.input_value("#m-number") == "20"
    page.click("#lesson-3 .turns .next")
    page.click("#lesson-4 .turns .prev")
    assert page.evaluate("document.activeElement.id") == "lesson-3-title"
    assert page.input_value("#m-number") == "20"  # what was set is kept
    page.reload()
    page.wait_for_selector("#lesson-3[data-ready]")
    assert page.input_value("#n-number") == "9"
    page.evaluate("location.hash = 'lesson-6'")  # as without JavaScript
    page.wait_for_selector("#lesson-6.shown")


def test_figures_that_did_not_load_are_loaded_by_the_next_visit(lesson, open_view):
    page = lesson(1)
    page.route("**/learn/turn.js", lambda route: route.abort())
    with page.expect_event("requestfailed"):
        page.click("#step-2")
    page.unroute("**/learn/turn.js")
    page.click("#step-1")
    page.click("#step-2")
    page.wait_for_selector("#lesson-2[data-ready] svg[role]")
    open_view.forgive("ERR_FAILED")


def test_without_a_clipboard_nothing_is_said_to_be_copied(lesson):
    """The text is selected: the reader can copy it with the keys."""
    script = "Object.defineProperty(navigator, 'clipboard', { value: undefined })"
    page = lesson(2, before=lambda page: page.add_init_script(script))
    page.click("#lesson-2 .ask > button")
    page.click("#lesson-2 .ask details summary")
    command = page.locator("#lesson-2 .ask .command")
    command.get_by_role("button", name="Copy").click()
    selected = page.evaluate("getSelection().toString()")
    assert selected.startswith("curl")
    settled(page)
    assert command.locator("output").inner_text() == ""


@pytest.mark.parametrize(
    "fragment", ["lesson=99&m=1e9&n=-4", "lesson=3&m=<b>&n=NaN", "x=" + "9" * 9999]
)
def test_a_strange_address_shows_a_lesson(open_view, fragment):
    page = open_view("learn", fragment=fragment, ready=".lesson.shown[data-ready]")
    assert page.locator(".lesson.shown").count() == 1


def test_the_language_link_goes_to_the_same_lesson(lesson):
    page = lesson(3, m=20, n=9)
    page.click("#language")
    page.wait_for_selector("html[lang=zh-Hans] #lesson-3[data-ready]")
    assert urlsplit(page.url).path.endswith("/ui/learn-zh.html")
    assert page.input_value("#m-number") == "20"
    page.click("#language")
    page.wait_for_selector("html[lang=en] #lesson-3[data-ready]")
    assert urlsplit(page.url).path.endswith("/ui/learn.html")


def test_who_reads_chinese_gets_the_chinese_lessons(open_view):
    page = open_view(
        "learn",
        fragment={"lesson": 5},
        language="zh",
        ready="html[lang=zh-Hans] #lesson-5[data-ready]",
    )
    assert urlsplit(page.url).path.endswith("/ui/learn-zh.html")
    assert page.locator("#lesson-5").is_visible()

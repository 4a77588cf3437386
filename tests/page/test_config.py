"""The config view: what it says is what the service answers, for each preset."""

import json
import re
import sys
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
import pytest

from rope_core.errors import ConfigError
from rope_core.hf.resolve import resolve
from rope_core.presets import built_in
from rope_core.scaling import exact_frequencies, pair_bands
from rope_core.sentences import summary
from tests.page.conftest import Views

VISIT = """async (names) => {
    const {choosePreset, titleOf, view} = await import("./config-data.js");
    const {pairsOf} = await import("./config-figures.js");
    const turn = () => new Promise((done) => setTimeout(done));
    const until = (holds) => new Promise((done) => {
        let stop = () => {};
        stop = view.subscribe((now) => holds(now) && (done(), queueMicrotask(() => stop())));
    });
    const found = [];
    for (const name of names) {
        choosePreset(name);
        await until((now) => now.source?.preset === name && (now.answer || now.refusal));
        await turn();
        const {answer, options, refusal} = view.value;
        const {band, turns} = answer.rotates ? pairsOf(answer) : {band: [], turns: []};
        const lede = document.querySelector(".lede");
        found.push({
            name, options, band, turns: turns.map((one) => (one === Infinity ? 0 : one)),
            refusal: refusal && String(refusal), title: document.querySelector("h1").textContent,
            sentence: lede.textContent, language: lede.lang, expected: titleOf({preset: name}),
            draws: document.querySelectorAll("#waves").length,
        });
    }
    return found;
}"""
"""Shows each preset and returns what the view says."""


def plain(text: str) -> str:
    """Return a text with ordinary spaces, and none between thousands."""
    return re.sub(r"(?<=\d)[ \u202f](?=\d{3}(?!\d))", "", text)


def answer_of(server_url: str, name: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return what /v1/resolve answers for a preset."""
    body = {"rope": {"preset": name, **options}}
    response = httpx.post(f"{server_url}/v1/resolve", json=body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def test_each_preset_reads_as_the_service_answers(open_view: Views) -> None:
    page = open_view("config", width=700, height=400, ready=".plot")
    for seen in page.evaluate(VISIT, sorted(built_in())):
        answer = answer_of(open_view.url, seen["name"], seen["options"])
        assert plain(seen["sentence"]) == plain(answer["summary"]), seen["name"]
        assert seen["title"] == seen["expected"], seen["name"]
        assert seen["refusal"] is None, seen
        assert seen["draws"] == answer["rotates"], seen["name"]
        if answer["rotates"]:
            bands = {name: seen["band"].count(name) for name in ("kept", "blended", "divided")}
            assert bands == {name: answer["scaling"][name] for name in bands}, seen["name"]
            assert_turns(seen)


def assert_turns(seen: dict[str, Any]) -> None:
    """Compare wavelengths and bands of a view with the library's exact frequencies."""
    rope = resolve(built_in()[seen["name"]].config, **seen["options"]).rope
    assert rope is not None
    exact = exact_frequencies(rope).abs().numpy()
    turning = exact != 0
    turns = np.array(seen["turns"])
    np.testing.assert_allclose(turns[turning], 2 * np.pi / exact[turning], rtol=2e-6)
    assert not turns[~turning].any()
    assert [band if band != "still" else None for band in seen["band"]] == list(pair_bands(rope))


def one_of_each_kind() -> list[str]:
    """Return presets that differ in more than the numbers of their summary."""
    kinds: dict[str, str] = {}
    for name, preset in built_in().items():
        try:
            text = summary(resolve(preset.config, layer=0))
        except ConfigError:
            continue
        kinds.setdefault(re.sub(r"[\d. ]+|\(\w+\)", "", text), name)
    return sorted(kinds.values())


def test_chinese_sentences_have_the_numbers_of_the_english_ones(open_view: Views) -> None:
    page = open_view("config", language="zh", width=700, height=400, ready=".plot")
    composed = 0
    names = one_of_each_kind()
    for seen in page.evaluate(VISIT, names):
        answer = answer_of(open_view.url, seen["name"], seen["options"])
        if seen["language"] == "en":
            assert plain(seen["sentence"]) == plain(answer["summary"])
            continue
        composed += 1
        numbers = re.findall(r"\d+(?:\.\d+)?", plain(seen["sentence"]))
        english = re.findall(r"\d+(?:\.\d+)?", plain(answer["summary"]))
        assert set(numbers) <= set(english) | {str(seen["turns"].count(0))}, (numbers, english)
        counts = answer.get("scaling") or {}
        if counts.get("divided", 0) > 1 and counts["kept"]:
            wanted = {str(counts[name]) for name in ("kept", "divided")}
            assert wanted <= set(numbers), seen
    assert composed >= 0.9 * len(names)


def test_keys_move_the_pair_in_all_figures(open_view: Views) -> None:
    page = open_view("config", ready="#clock")
    plot = page.get_by_role("slider", name="Wavelengths of 64 pairs")
    title = page.locator("#clock")

    def press(key: str, pair: int) -> None:
        page.keyboard.press(key)
        page.wait_for_function(
            "n => document.querySelector('#clock').textContent.includes(`Pair ${n}:`)", arg=pair
        )
        assert plot.get_attribute("aria-valuenow") == str(pair)
        assert title.text_content() == f"Pair {pair}: channels {pair} and {pair + 64}"

    plot.focus()
    for key, pair in (
        ("ArrowRight", 33),
        ("PageUp", 41),
        ("PageDown", 33),
        ("ArrowLeft", 32),
        ("End", 63),
        ("ArrowRight", 63),
        ("Home", 0),
    ):
        press(key, pair)
    page.keyboard.press("Enter")
    box = plot.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 100)
    press("ArrowRight", 1)
    page.keyboard.press("Escape")
    page.mouse.move(box["x"] + box["width"] / 2 + 8, box["y"] + 100)
    page.wait_for_function(
        "() => !document.querySelector('#clock').textContent.includes('Pair 1:')"
    )
    page.wait_for_function("() => location.hash.includes('pair=')")
    page.wait_for_function(
        "words => document.querySelector('[aria-labelledby=waves] .plot')"
        ".getAttribute('aria-valuetext').includes(words)",
        arg="positions for one turn",
    )


def test_a_pasted_config_is_in_the_link(open_view: Views) -> None:
    page = open_view("config", fragment="preset=mistral-7b-v0.1", ready=".plot")
    config = {"model_type": "llama", "rope_theta": 12345.678901234567, "_name_or_path": "a/Own"}
    page.fill("#json", json.dumps(config))
    page.wait_for_function("() => document.querySelector('h1').textContent === 'Own'")
    assert "base 12345.68" in plain(page.text_content(".lede"))
    link = page.url
    assert "config=" in link
    assert "preset" not in link
    assert "12345" not in link
    page.reload()
    page.wait_for_function("() => document.querySelector('h1').textContent === 'Own'")
    assert json.loads(page.input_value("#json")) == config
    assert page.url == link
    page.go_back()
    page.wait_for_function("() => document.querySelector('h1').textContent.startsWith('Mistral')")
    page.go_forward()
    page.wait_for_function("() => document.querySelector('h1').textContent === 'Own'")


def test_length_layer_part_and_version_change_the_answer(open_view: Views) -> None:
    page = open_view("config", fragment="preset=phi-3.5-mini-instruct", ready="#clock")
    sees = "text => document.querySelector('.lede').textContent.includes(text)"
    page.wait_for_function(sees, arg="short_factor")
    page.fill("#length", "100000")
    page.press("#length", "Tab")
    page.wait_for_function(sees, arg="(long_factor, base")
    page.wait_for_function("() => location.hash.includes('length=100000')")
    page.evaluate("location.hash = 'preset=gemma-3-1b-it'")
    page.wait_for_function(sees, arg="sliding_attention")
    page.locator(".kinds button").nth(1).click()
    page.wait_for_function(sees, arg="4 of 26 layers")
    page.get_by_role("spinbutton", name="Layer").fill("4")
    page.keyboard.press("Tab")
    page.wait_for_function(sees, arg="22 of 26 layers")
    page.get_by_role("slider", name="26 layers").press("ArrowRight")
    page.wait_for_function(sees, arg="4 of 26 layers")
    page.evaluate("location.hash = 'preset=qwen2.5-vl-7b-instruct'")
    page.get_by_role("button", name="vision").click()
    page.wait_for_function(sees, arg="by axis 0")
    page.get_by_role("button", name="4.57").click()
    page.wait_for_function("() => location.hash.includes('compat=4.57')")


def test_presets_by_keyboard(open_view: Views) -> None:
    page = open_view("config", ready=".plot")
    page.wait_for_function("() => document.querySelector('#json').value")
    page.click("#preset")
    page.keyboard.type("longrope mini")
    options = page.get_by_role("option")
    assert {"phi-3.5-mini-instruct", "phi-4-mini-instruct"} <= {
        text.strip() for text in page.locator("[role=option] span").all_text_contents()
    }
    assert options.first.get_attribute("aria-selected") == "true"
    page.keyboard.press("ArrowDown")
    assert options.nth(1).get_attribute("aria-selected") == "true"
    name = page.locator("[role=option][aria-selected=true] span").text_content()
    page.keyboard.press("Enter")
    page.wait_for_function("name => location.hash === `#preset=${name}`", arg=name)
    assert options.count() == 0


HOSTILE = "<img src=x onerror=\"document.title='broken'\">"


def test_hostile_configs_are_text(open_view: Views) -> None:
    page = open_view("config", ready=".plot")
    problem = page.locator("#json-problem")
    config = {
        "model_type": "llama",
        HOSTILE: {HOSTILE: 1},
        "_name_or_path": HOSTILE,
        "rope_whatever" + HOSTILE: 3,
    }
    page.fill("#json", json.dumps(config))
    page.wait_for_function("() => document.querySelector('h1').textContent.includes('<img')")
    page.mouse.wheel(0, 4000)
    page.wait_for_function("() => document.querySelector('.keys')?.textContent.includes('<img')")
    assert page.locator("main img").count() == 0
    for text, words in (
        ('{"model_type": "llama", "rope_theta": NaN}', "rope.rope_theta must be a number"),
        (json.dumps({"model_type": HOSTILE}), "rope."),
        ('{"model_type": "llama", "x": ' + "[" * 200 + "]" * 200 + "}", "nested too deep"),
    ):
        page.fill("#json", text)
        page.wait_for_function(
            "words => document.querySelector('#json-problem').textContent.includes(words)",
            arg=words,
        )
        assert page.locator("main img").count() == 0
        assert page.locator(".stale h1").count() == 1, "the last good figure stays, greyed"
    page.evaluate("""async () => (await import("./config-data.js")).chooseText(
        JSON.stringify({model_type: "llama", x: "a".repeat(2 ** 24)}))""")
    page.wait_for_function(
        "() => document.querySelector('#json-problem').textContent.includes('16,777,216')"
    )
    page.fill("#json", '{"model_type": "llama"}')
    page.wait_for_function("() => !document.querySelector('#json-problem').textContent")
    assert "64 pairs turn" in page.text_content(".lede")
    assert problem.text_content() == ""
    open_view.forgive("status of 422|status of 400|status of 413")


@pytest.mark.parametrize(
    "fragment", ["config=" + "A" * 2**20, "config=%22%00", "layer=x&pair=-4&length=1e99&part="]
)
def test_hostile_fragments_do_no_harm(open_view: Views, fragment: str) -> None:
    page = open_view("config", fragment=fragment)
    page.wait_for_function(
        "() => document.querySelector('#json-problem')?.textContent"
        " || document.querySelector('.plot')"
    )
    page.evaluate("location.hash = 'preset=llama-3.1-8b'")
    page.wait_for_selector(".plot")


def test_score_is_that_of_all_distances(open_view: Views) -> None:
    page = open_view("config", ready=".plot")
    frequencies = 500000.0 ** (-np.arange(0, 1, 1 / 64))
    edges = [1.0, 2.0, 3.5, 40.2, 41.9, 700.0, 5000.5]
    columns = page.evaluate(
        """async ([frequencies, edges]) =>
            (await import("./config-figures.js")).scoreColumns(frequencies, edges)""",
        [frequencies.tolist(), edges],
    )
    for column, low, high in zip(columns, edges, edges[1:], strict=False):
        distances = np.arange(np.ceil(low), np.ceil(high))
        score = np.cos(np.outer(distances, frequencies)).mean(-1)
        assert column["mean"] == pytest.approx(score.mean(), abs=1e-12)
        if len(distances) <= 1024:
            assert column["low"] == pytest.approx(score.min(), abs=1e-10)
            assert column["high"] == pytest.approx(score.max(), abs=1e-10)


def test_the_command_of_a_figure_answers_the_same(open_view: Views) -> None:
    config = json.dumps({"model_type": "llama", "note": "it's", "rope_theta": 1e4})
    page = open_view("config", fragment=f"config={quote(config)}", ready=".plot")
    page.locator("#waves").locator("xpath=ancestor::section").get_by_role(
        "button", name="curl"
    ).click()
    command = page.locator(".command code").text_content()
    body = command.partition("-d '")[2].removesuffix("'").replace("'\\''", "'")
    address = re.search(r"http\S+", command)
    assert address
    answer = httpx.post(address[0], content=body, headers={"content-type": "application/json"})
    assert plain(answer.json()["summary"]) == plain(page.text_content(".lede"))


def test_budgets_of_the_view(open_view: Views, capsys: pytest.CaptureFixture[str]) -> None:
    page = open_view("config", ready="#clock")
    page.wait_for_load_state("networkidle")
    requests = list(open_view.requests)
    nodes = page.evaluate("document.querySelectorAll('*').length")
    assert len(requests) <= 12, requests
    assert nodes <= 1500
    median = page.evaluate(
        """async () => {
            const {choose} = await import("./figure.js");
            const times = [];
            for (let pair = 0; pair < 60; pair++) {
                const start = performance.now();
                choose({pair});
                await Promise.resolve();
                await Promise.resolve();
                document.body.getBoundingClientRect();
                times.push(performance.now() - start);
            }
            return times.sort((one, other) => one - other)[30];
        }"""
    )
    line = f"config view: {len(requests)} requests, {nodes} nodes, redraw {median:.1f} ms"
    with capsys.disabled():
        sys.stdout.write(f"\n{line}\n")

"""The shell of all views: language, phase, key, state in the address, saved files."""

import json

import pytest

from tests.page.conftest import VIEWS

VIEW = """
import { html } from "./vendor.js";
import { ask, start, t } from "./page.js";
const preset = { rope: "llama-3.1-8b" };
function View() { return html`<h1>${t("config.title")}</h1><p id="answer"></p>`; }
await start(View);
const answer = await ask("v1/resolve", preset).catch((refusal) => ({ summary: refusal.code }));
document.getElementById("answer").textContent = answer.summary;
"""
"""A view that makes one call."""

KEY = "a-key-of-a-tenant"


def with_script(name: str, script: str):
    """Return what replaces the script of a view by another."""

    def before(page):
        answer = {"body": script, "content_type": "text/javascript"}
        page.route(f"**/ui/{name}.js", lambda route: route.fulfill(**answer))

    return before


def test_the_language_is_chosen_and_kept(open_view):
    page = open_view("try", fragment="length=4096")
    assert page.locator("nav.tabs a").first.inner_text() == "Config"
    page.click("#language")
    page.wait_for_url("**/try.html?lang=zh#length=4096")
    page.wait_for_selector("html[lang=zh-Hans]")
    assert page.locator("nav.tabs a").first.inner_text() == "配置"
    assert page.title() == "试用 · rope"
    assert page.locator("nav.tabs").get_attribute("aria-label") == "视图"
    page.click("nav.tabs a[href='live.html']")
    page.wait_for_selector("html[lang=zh-Hans]")
    assert page.locator("#language").inner_text() == "English"


def test_the_phase_has_a_text_and_follows_the_service(open_view):
    phase = "warming up"

    def answer(route):
        if phase == "gone":
            route.abort()
            return
        status = 200 if phase == "ready" else 503
        body = json.dumps({"status": phase})
        route.fulfill(status=status, body=body, headers={"x-rope-device": "cuda:0"})

    def before(page):
        page.clock.install()
        page.route("**/readyz", answer)

    page = open_view("try", before=before)
    shown = page.locator("#phase")
    for now, text in (
        ("warming up", "warming up · cuda:0"),
        ("ready", "ready · cuda:0"),
        ("draining", "draining · cuda:0"),
        ("gone", "no answer"),
    ):
        phase = now
        page.clock.fast_forward(10_000)
        shown.get_by_text(text).wait_for()
        assert shown.inner_text() == text
    assert shown.get_attribute("role") == "status"
    open_view.forgive("status of 503|ERR_FAILED")


def test_a_hidden_page_asks_nothing(open_view):
    hide = """hidden => {
        Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
        document.dispatchEvent(new Event("visibilitychange"));
    }"""
    page = open_view("try", before=lambda page: page.clock.install())
    page.get_by_text("ready · cpu").wait_for()
    page.evaluate(hide, True)
    before = len(open_view.requests)
    page.clock.run_for(3_600_000)
    assert len(open_view.requests) == before
    with page.expect_request("**/readyz"):
        page.evaluate(hide, False)


def test_a_service_with_keys(open_view, axe):
    """Calls wait for the key and are sent again with it; it is kept for this tab only."""

    def answer(route):
        if route.request.headers.get("authorization") == f"Bearer {KEY}":
            route.continue_()
        else:
            route.fulfill(status=401, json={"code": "unauthenticated", "detail": "no key"})

    def before(page):
        with_script("try", VIEW)(page)
        page.route("**/v1/**", answer)

    page = open_view("try", before=before)
    field = page.get_by_label("This service needs an API key")
    field.wait_for()
    axe(page)
    field.fill("wrong")
    page.keyboard.press("Enter")
    field = page.get_by_label("The service does not accept this API key")
    field.wait_for()
    field.fill(KEY)
    page.get_by_role("button", name="Use this key").click()
    page.get_by_text("64 pairs turn").wait_for()
    assert page.locator("#key form").count() == 0
    page.reload()
    page.get_by_text("64 pairs turn").wait_for()  # the key is still there
    page.get_by_role("button", name="Forget it").click()
    assert page.evaluate("sessionStorage.length + localStorage.length") == 0
    assert all(KEY not in request for request in open_view.requests)
    open_view.forgive("status of 401")


@pytest.mark.parametrize("name", VIEWS)
def test_a_fragment_of_a_megabyte(open_view, name):
    """Unknown and hostile values are ignored, or are shown as text."""
    markup = "<img src=x onerror=alert(1)>"
    hostile = {
        "preset": markup,
        "config": markup,
        "pair": markup,
        "a": markup,
        "layer": "-1",
        "length": "1e999",
        "__proto__": "x",
        "constructor": "y",
        "x": "A" * 2**20,
    }
    page = open_view(name, fragment=hostile)
    assert page.locator("h1").count() == 1
    assert page.locator("img").count() == 0
    page.wait_for_load_state("networkidle")
    if any("status of" in problem for problem in open_view.problems):  # refused by the service
        open_view.forgive("status of (404|422)")


def test_numbers(open_view):
    page = open_view("try")
    cases = page.evaluate(
        """async () => {
            const { integer, significant, short } = await import("./page.js");
            return [
                integer(-131072), integer(10n ** 20n), integer(null), significant(0.0005248),
                significant(11971.23), significant(4443.2), significant(-0.96123),
                significant(2.5e-7), significant(3.1e17), significant(NaN), significant(-Infinity),
                significant(0), significant(undefined),
                short(0.5), short(8192), short(131072), short(1e7), short(-3e9),
            ];
        }"""
    )
    thin, minus = "\u202f", "\u2212"
    assert cases == [
        f"{minus}131{thin}072",
        "100 000 000 000 000 000 000".replace(" ", thin),
        "—",
        "0.0005248",
        f"11{thin}971",
        f"4{thin}443",
        f"{minus}0.9612",
        "2.5\u00d710⁻⁷",
        "3.1\u00d710¹⁷",
        "NaN",
        f"{minus}∞",
        "0",
        "—",
        "0.5",
        f"8{thin}192",
        f"131{thin}k",
        f"10{thin}M",
        f"{minus}3{thin}G",
    ]


@pytest.mark.parametrize("name", ["config", "learn"])
def test_a_view_without_javascript_says_where_to_go(open_view, name):
    page = open_view(name, javascript=False, ready=None)
    assert page.locator("h1").count() == 1
    assert page.locator("#main").inner_text().strip()


def test_print_is_light(open_view):
    page = open_view("try", color_scheme="dark")
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(22, 25, 29)"
    assert not page.locator("nav.tabs").is_visible()


def test_the_page_of_the_api_works_under_its_policy(open_view):
    page = open_view("learn")
    small = {"openapi": "3.1.0", "info": {"title": "rope-service", "version": "1"}, "paths": {}}
    page.route("**/openapi.json", lambda route: route.fulfill(json=small))
    page.get_by_role("link", name="API").click()
    page.wait_for_selector("#swagger-ui .info", state="attached")

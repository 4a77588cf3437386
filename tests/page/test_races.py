"""Answers that come late: what the reader has done since then stays."""

import json


def hold(page, pattern):
    """Keep the requests of a pattern until they are let go: the list of their routes."""
    held = []
    page.route(pattern, lambda route: held.append(route))
    return held


def wait_for(page, held):
    """Wait until a request is held."""
    while not held:
        page.wait_for_timeout(10)  # lets the browser's events arrive
    return held.pop(0)


def test_an_answer_for_other_numbers_is_not_shown(open_view):
    page = open_view("learn", fragment={"lesson": 3, "m": 40, "n": 30})
    page.wait_for_selector("#lesson-3[data-ready]")
    held = hold(page, "**/v1/attention")
    page.locator("#lesson-3 .ask button").click()
    late = wait_for(page, held)
    page.evaluate("async () => (await import('./figure.js')).choose({m: 41})")
    page.wait_for_function("() => document.querySelector('#m-number').value === '41'")
    with page.expect_response("**/v1/attention"):
        late.continue_()
    page.unroute("**/v1/attention")
    assert page.locator("#lesson-3 .ask table").count() == 0
    page.locator("#lesson-3 .ask button").click()
    page.wait_for_selector("#lesson-3 .ask table")


def test_an_answer_of_another_route_is_not_shown(open_view):
    page = open_view("try")
    held = hold(page, "**/v1/rotate")
    page.locator("button.primary").click()
    wait_for(page, held)
    page.locator("#route").select_option("POST /v1/cos_sin")
    held = hold(page, "**/v1/cos_sin")
    page.locator("button.primary").click()
    with page.expect_response("**/v1/cos_sin"):
        wait_for(page, held).continue_()
    page.wait_for_selector(".answer .status")
    assert page.locator(".answer-tensor").first.get_attribute("aria-label") == "cos"


def test_sources_that_are_exchanged_while_one_is_resolved(open_view):
    page = open_view("compare", fragment={"b": "llama-3-8b"})
    page.wait_for_selector(".source.b .cap a")
    held = hold(page, "**/v1/resolve")
    page.locator(".source.a input[type=text]").fill("mistral-7b-v0.1")
    page.locator(".source.a input[type=text]").press("Tab")
    first = wait_for(page, held)
    page.locator(".swap").click()
    second = wait_for(page, held)
    assert json.loads(second.request.post_data) == json.loads(first.request.post_data)
    for route in (second, first):
        route.continue_()
    page.wait_for_selector(".source.b .cap a[href*=mistral]")
    assert page.locator(".source.a .cap a[href*=llama]").count() == 1


def test_polling_that_is_stopped_in_a_call_stays_stopped(open_view):
    page = open_view("config")
    timers = page.evaluate(
        """async () => {
            const {poll} = await import("./page.js");
            const [set, pauses] = [window.setTimeout, []];
            window.setTimeout = (work, pause) => (pauses.push(pause), set(work, pause));
            const turns = [];
            const work = (pause) => () => new Promise((done) => turns.push(() => done(pause)));
            const stop = poll(work(61_000));
            const stopOther = poll(work(62_000));
            stop();
            for (const finish of turns) finish();
            for (let turn = 0; turn < 10; turn++) await null;
            stopOther();
            window.setTimeout = set;
            return pauses.filter((pause) => pause > 60_000);
        }"""
    )
    assert timers == [62_000]

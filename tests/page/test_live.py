"""The live view, with recorded answers of `/v1/recent` and a clock that the tests move."""

import json
import random
import re
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest

from service.asgi.problems import PROBLEMS
from service.oip.errors import STATUSES
from tests.conftest import ROOT, Serve
from tests.page.conftest import Views, assert_no_overflow
from tests.page.recent_answers import BOUNDS, MIB, NOON, FakeRecent
from tests.waiting import wait_until

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")

ROUTES = ("/v1/attention", "/v1/rotate")

I18N = ROOT / "service/page/static/i18n"


class Live:
    """The live view over a stand-in for `/v1/recent`, which may stop answering."""

    def __init__(self, open_view: Views, recent: FakeRecent, **options: Any) -> None:
        self.recent = recent
        self.answers = True
        self.problem: dict[str, Any] = {}
        """What is answered in place of figures."""
        self.queries: list[str] = []
        self._open: set[Any] = set()
        self.views = open_view
        self.page = open_view("live", before=self._before, ready=None, **options)
        self.page.wait_for_selector("svg.plot")

    def _before(self, page: Any) -> None:
        page.clock.install(time=self.recent.until + 1)
        page.route("**/v1/recent*", self._answer)
        page.on("requestfinished", lambda request: self._open.discard(request))
        page.on("requestfailed", lambda request: self._open.discard(request))

    def _answer(self, route: Any) -> None:
        self.queries.append(route.request.url)
        self._open.add(route.request)
        if self.answers:
            route.fulfill(json=self.recent.answer(route.request.url))
        elif self.problem:
            route.fulfill(status=self.problem["status"], json=self.problem)
        else:
            route.abort()

    def pass_s(self, seconds: int = 2) -> None:
        """Let time pass for the service and the page."""
        self.recent.until += seconds
        for _ in range(seconds):
            self.page.clock.run_for(1000)
            while self._open:  # the clock of the page waits until the page has its answer
                self.page.wait_for_timeout(1)
            self.page.evaluate("0")

    def show(self, expected: str) -> None:
        """Wait until the page contains a text."""
        sync_api.expect(self.page.locator("main")).to_contain_text(expected)

    def has_crosshair(self, expected: bool) -> None:
        """Wait until a place is chosen, or none is, and until it has been read out."""
        sync_api.expect(self.page.locator("svg.plot .chosen")).to_have_count(int(expected))
        self.page.clock.run_for(200)

    @property
    def headline(self) -> str:
        return str(self.page.locator("h1").inner_text())

    @property
    def reading(self) -> str:
        return str(self.page.locator("svg.plot").get_attribute("aria-valuetext"))

    def table(self) -> list[dict[str, Any]]:
        """Return the table behind the figure."""
        self.page.get_by_role("button", name="Table").click()
        cells = self.page.eval_on_selector_all(
            "section.fig tr", "rows => rows.map(r => [...r.cells].map(c => c.innerText))"
        )
        self.page.get_by_role("button", name="Table").click()
        heading, *rows = cells
        return [dict(zip(heading, row, strict=True)) for row in rows]


def busy(seconds: int = 900, **options: Any) -> FakeRecent:
    """Return a service that has answered requests in each second but the last ten."""
    recent = FakeRecent(**options)
    for second in range(recent.until - seconds + 1, recent.until - 9):
        work(recent, second)
    return recent


def work(recent: FakeRecent, second: int | None = None, **values: Any) -> None:
    rng = random.Random(second or recent.until)
    latencies = {r: [rng.lognormvariate(-5, 1) for _ in range(20)] for r in ROUTES}
    values = {"busy_s": 0.25, "wait_s": 0.05, "compute_s": 0.1, "copy_s": 0.01, **values}
    recent.second(second, latencies=latencies, **values)


def test_first_minute_of_a_quiet_service(open_view: Views, axe: Callable[..., None]) -> None:
    live = Live(open_view, FakeRecent(age=25), language="zh", color_scheme="dark", width=390)
    assert live.headline == "就绪，暂无流量"  # noqa: RUF001
    assert live.page.locator("svg.plot text", has_text="没有请求").count() >= 2
    assert live.page.locator("svg.plot text", has_text="无数据").count() == 1
    assert live.page.locator(".seg [aria-pressed=true]").inner_text() == "1 分钟"
    assert_no_overflow(live.page)
    axe(live.page)


def test_fifteen_minutes_at_once(open_view: Views, axe: Callable[..., None]) -> None:
    live = Live(open_view, busy())
    assert len(live.queries) == 1
    assert live.page.locator(".seg [aria-pressed=true]").inner_text() == "15 min"
    assert len(live.table()) >= 90
    assert live.page.evaluate("document.querySelectorAll('*').length") < 500
    assert len([each for each in open_view.requests if not each.startswith("data:")]) <= 12
    axe(live.page)


def test_headline_of_each_phase(open_view: Views) -> None:
    live = Live(open_view, FakeRecent(age=300))
    draining = {"phase": "draining", "drain": {"left_s": 11.2, "requests": 3}}
    for more, headline in (
        ({"phase": "warming up"}, "Warming up"),
        ({"queue": {"depth": 0, "predicted_wait_s": 0.0}}, "Ready, no traffic"),
        ({"queue": {"depth": 1, "predicted_wait_s": 0.1}}, "1 call is waiting"),
        ({"queue": {"depth": 2500, "predicted_wait_s": 0.1}}, "2\u202f500 calls are waiting"),
        (draining, "Draining: 3 requests left, at most 12 s to go"),
        ({"phase": "draining"}, "Draining"),
        ({"phase": "device lost"}, "Device lost"),
        ({"phase": "device stuck"}, "Device stuck"),
        ({}, "Ready, no traffic"),
    ):
        live.recent.more = more
        live.pass_s()
        sync_api.expect(live.page.locator("h1")).to_have_text(headline)
        phase = more.get("phase", "ready")
        assert live.page.locator("#phase").inner_text().strip() == f"{phase} · cpu"
    work(live.recent, live.recent.until + 1)
    live.pass_s()
    live.show("Keeping up, the queue is empty")
    work(live.recent, live.recent.until + 1, depth=2, wait_max_s=0.062)
    live.pass_s()
    live.show("Keeping up, calls wait at most 62\u202fms")


def test_the_figures_of_a_row_are_all_a_second(open_view: Views) -> None:
    live = Live(open_view, busy())
    live.recent.second(NOON + 1, refusals=[("overloaded", 503, 20)])
    live.pass_s()
    live.show("Refusing requests: overloaded")
    beside = live.page.locator("svg.plot text", has_text=re.compile("refused$"))
    assert beside.text_content() == "2 refused", "20 within the last 10 seconds"


def test_a_burst_of_refusals_shorter_than_a_second(open_view: Views) -> None:
    recent = busy()
    refusals = [("overloaded", 503, 4), ("shape", 422, 7)]
    work(recent, NOON - 400, refusals=refusals, depth=6)
    recent.more = {"limits": {**recent.answer()["limits"], "queue_calls": 6}}
    live = Live(open_view, recent)
    live.show("the service refused 4 requests")
    marks = live.page.locator("svg.plot path[fill='var(--b)']:not([fill-opacity])")
    assert marks.get_attribute("d").count("M") == 1
    service, client = live.page.locator(".refusals li").all()
    assert re.search(r"503 overloaded\s+service\s+4", service.inner_text())
    assert "ROPE_MAX_QUEUE_CALLS" in service.inner_text()
    assert re.search(r"422 shape\s+client\s+7", client.inner_text())
    live.page.goto(live.page.url.split("#")[0] + f"#at={NOON - 400}")
    live.has_crosshair(True)
    assert "4 refused" in live.reading
    assert "6 waiting" in live.reading
    live.recent.second(NOON + 1, refusals=[("overloaded", 503, 2)])
    live.pass_s()
    live.show("Refusing requests: overloaded")
    service.get_by_role("link").click()
    live.page.wait_for_selector(".codes .wanted")
    assert live.page.locator(".codes dt").count() == len(codes())
    assert "code=overloaded" in live.page.url


def test_no_answer_keeps_the_last_figures(open_view: Views, axe: Callable[..., None]) -> None:
    live = Live(open_view, busy())
    before = live.page.locator(".details table").first.inner_text()
    live.answers = False
    live.pass_s()
    live.show("No answer for")
    sent = len(live.queries)
    for second in range(1, 91):
        live.pass_s(1)
        if second == 60:
            assert re.match(r"No answer for 1 min", live.headline)
    assert 4 <= len(live.queries) - sent <= 6  # after 4, 8, 16, 30 and 30 s
    assert live.page.locator(".details table").first.inner_text() == before
    assert live.page.locator("svg.plot text", has_text=re.compile("^now$")).count() == 0
    axe(live.page)
    work(live.recent, live.recent.until)
    live.answers = True
    live.page.get_by_role("button", name="Try now").click()
    live.show("Keeping up")
    assert live.queries[-1].endswith(f"after={NOON}")
    assert {row["answered/s"] for row in live.table()[-8:-2]} == {"0"}  # known after all
    live.answers = False
    live.problem = {
        "status": 403,
        "code": "forbidden",
        "detail": "the route needs the scope metrics",
    }
    live.pass_s()
    live.show("The service does not show its figures: forbidden")
    live.show("the route needs the scope metrics")
    open_view.forgive("ERR_FAILED")
    open_view.forgive("403")


def test_a_restart_is_a_gap(open_view: Views) -> None:
    live = Live(open_view, busy(), fragment={"range": 60})
    live.recent.restart(NOON + 11)
    live.recent.routes = ["/v1/resolve", *ROUTES]  # in another order than before
    work(live.recent, NOON + 12)
    live.pass_s(20)
    live.show("started")
    rows = live.table()
    assert all(float(cell) >= 0 for row in rows for cell in list(row.values())[2:] if cell != "—")
    seconds = [re.search(r"(\d\d):(\d\d)Z", row["UTC"]) for row in rows]
    shown = {60 * int(m[1]) + int(m[2]) for m in seconds if m}
    assert shown.isdisjoint(range(3, 10))
    routes = live.page.locator(".details table").first.inner_text()
    assert "/v1/rotate" in routes
    assert "/v1/resolve" not in routes
    assert live.page.locator(".details", has_text="up").inner_text().count("up\t10 s") == 1
    live.recent.started -= 500  # the answer of another replica
    live.pass_s()
    live.show("Several processes answer at this address")


def test_a_hidden_tab_sends_nothing(open_view: Views) -> None:
    live = Live(open_view, busy())
    hide = """hidden => {
        Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
        Object.defineProperty(document, "visibilityState",
            { value: hidden ? "hidden" : "visible", configurable: true });
        document.dispatchEvent(new Event("visibilitychange"));
    }"""
    with live.page.expect_response("**/v1/recent*"):
        live.pass_s()
    live.page.evaluate(hide, True)
    sent = len(open_view.requests)
    live.pass_s(600)
    assert len(open_view.requests) == sent
    live.page.evaluate(hide, False)
    live.pass_s()
    live.show("Ready, no traffic")
    first = next(each for each in open_view.requests[sent:] if "readyz" not in each)
    assert first.endswith(f"after={NOON + 2}")
    live.page.get_by_role("button", name="Pause").click()
    sent = len(live.queries)
    live.pass_s(60)
    assert len(live.queries) == sent
    live.show("Paused at")


def test_an_hour_takes_no_more_memory(open_view: Views) -> None:
    live = Live(open_view, busy())
    session = live.page.context.new_cdp_session(live.page)
    session.send("Performance.enable")

    def measure() -> dict[str, float]:
        session.send("HeapProfiler.collectGarbage")
        metrics = session.send("Performance.getMetrics")["metrics"]
        wanted = {"JSHeapUsedSize", "Nodes"}
        rows = "import('./live.js').then(({ recent }) => recent.rows.size)"
        found = {each["name"]: each["value"] for each in metrics if each["name"] in wanted}
        return {**found, "rows": live.page.evaluate(rows)}

    def pass_minutes(minutes: int) -> None:
        for _ in range(minutes // 3):  # each poll is answered with three minutes
            until = live.recent.until
            for second in range(until + 1, until + 181):
                work(live.recent, second)
            live.recent.until += 180
            with live.page.expect_response("**/v1/recent*"):
                live.page.clock.run_for(2000)

    pass_minutes(18)
    early = measure()
    pass_minutes(60)
    late = measure()
    assert early["rows"] == late["rows"] == 900
    assert late["Nodes"] < early["Nodes"] + 50
    assert late["JSHeapUsedSize"] < early["JSHeapUsedSize"] + MIB


def test_names_with_markup_are_text(open_view: Views) -> None:
    evil = "<img src=x onerror=document.title='hacked'>"
    recent = FakeRecent()
    recent.second(latencies={evil: [0.01]}, refusals=[(evil, 418, 1)])
    recent.about = {"version": evil, "device": evil, "settings": {evil: evil}}
    recent.more = {"sessions": {"live": 3, "pages": {"used": 0, "reserved": 0, "free": 0}}}
    live = Live(open_view, recent)
    assert live.page.locator("main img").count() == 0
    assert live.page.get_by_text(evil).count() >= 4
    assert live.page.title() == "Live · rope"


def test_keys_and_pointer_move_one_crosshair(open_view: Views) -> None:
    live = Live(open_view, busy(), timezone_id="Asia/Shanghai", fragment={"range": 300})
    plot = live.page.locator("svg.plot")
    assert live.page.locator("svg.plot .chosen").count() == 0
    assert live.reading.startswith("20:00:00 (2025-11-30T12:00:00Z)")
    plot.focus()
    live.page.keyboard.press("PageDown")
    live.page.keyboard.press("ArrowLeft")
    live.page.clock.run_for(300)
    step = int(live.page.evaluate("Math.round(location.hash.match(/at=(\\d+)/)[1])"))
    assert NOON - step in (27, 45, 54)
    shown = live.page.locator("svg.plot .chosen").text_content()
    assert re.fullmatch(r"19:59:\d\d · 11:59:\d\d UTC", shown)
    assert live.reading.startswith(shown[:8])
    live.page.keyboard.press("Escape")
    live.has_crosshair(False)
    box = plot.bounding_box()
    live.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 30)
    live.has_crosshair(True)
    line = live.page.locator("svg.plot line[stroke='var(--ink)']").last.bounding_box()
    assert line["height"] > 0.8 * box["height"]
    live.page.mouse.move(0, 0)
    live.has_crosshair(False)


def test_percentiles_are_bounds_of_buckets(open_view: Views) -> None:
    recent = FakeRecent()
    rng = np.random.default_rng(1)
    values = {route: rng.lognormal(-5 - i, 1.5, (60, 7)) for i, route in enumerate(ROUTES)}
    for second in range(60):
        recent.second(
            recent.until - second,
            latencies={route: list(map(float, each[second])) for route, each in values.items()},
        )
    live = Live(open_view, recent, fragment={"range": 60})
    rows = live.page.eval_on_selector_all(
        ".details table:first-of-type tbody tr",
        "rows => rows.map(r => [...r.cells].map(c => c.innerText))",
    )
    shown = {row[0]: row[2:] for row in rows}
    for route, each in values.items():
        for cell, share in zip(shown[route], (50, 95, 99), strict=True):
            exact = np.percentile(each, share, method="inverted_cdf")
            assert seconds_of(cell) == pytest.approx(BOUNDS[np.searchsorted(BOUNDS, exact)])


def seconds_of(text: str) -> float:
    number, unit = text.split("\u202f")
    return float(number) * {"s": 1, "ms": 1e-3, "µs": 1e-6}[unit]


def codes() -> set[str]:
    """Return all codes of docs/errors.md."""
    of_oip = {re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower() for kind in STATUSES}
    others = {"not_found", "method_not_allowed", "http", "internal", "client_left"}
    return {code for _, code in PROBLEMS.values()} | of_oip | others


@pytest.mark.parametrize("language", ["en", "zh"])
def test_each_code_says_what_to_do(language: str) -> None:
    texts = json.loads((I18N / f"{language}.json").read_text())
    assert {key.removeprefix("refusal.") for key in texts if key.startswith("refusal.")} == codes()


def test_a_real_service(browser: Any, serve: Serve) -> None:
    with serve(ROPE_DRAIN_DELAY_S="30") as started:
        views = Views(browser, started.url)
        with httpx.Client(base_url=started.url) as client:
            for vector in [[1.0, 2.0]] * 40 + [[1.0]] * 4:  # a head of one channel is refused
                client.post("/v1/rotate", json={"q": [[vector]]})
        page = views("live", ready="svg.plot")

        def poll() -> None:
            """Pause and resume, after which the page asks at once."""
            page.locator(".live-head .tools > button").click()
            page.locator(".live-head .tools > button").click()

        def wait_for(condition: Callable[[], bool]) -> None:
            def holds() -> bool:
                with page.expect_response("**/v1/recent*"):
                    poll()
                return condition()

            wait_until(holds)

        def sums() -> list[float]:
            return list(
                page.evaluate(
                    """async () => {
                    const { recent } = await import("./live.js");
                    const sum = recent.sum(recent.answer.until - 900, recent.answer.until);
                    return [sum.answered, sum.wrong, sum.refused, sum.tokens];
                }"""
                )
            )

        wait_for(lambda: sums() == [40, 4, 0, 40])  # its second is complete
        sync_api.expect(page.locator(".refusals b")).to_have_text("4")
        sync_api.expect(page.locator(".details table").first).to_contain_text("/v1/rotate")
        started.process.terminate()
        wait_for(lambda: "Draining" in str(page.locator("h1").inner_text()))
        started.process.kill()
        poll()
        sync_api.expect(page.locator("h1")).to_contain_text("No answer for")
        views.close()
    unexpected = [each for each in views.problems if "Failed to load resource" not in each]
    assert unexpected == []

"""A real Chromium that looks at the page of a real service.

Playwright drives the browser from an event loop on the thread of the tests, so it is stopped after
the last test of this folder: tests that are coroutines need a loop of their own. No test in this
folder may be a coroutine.
"""

import re
import shutil
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest

from tests.conftest import Started

VIEWS = ("config", "compare", "learn", "try", "live")

AXE_TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


def find_chromium() -> str | None:
    """Return the path of the system's Chromium."""
    names = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
    return next(filter(None, map(shutil.which, names)), None)


@pytest.fixture(scope="package")
def browser() -> Iterator[Any]:
    """Chromium without a window; the tests are skipped where there is none."""
    path = find_chromium()
    if path is None:
        pytest.skip("the page in a browser: there is no Chromium; install the package chromium")
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield chromium
        chromium.close()


class Views:
    """Opens views of the service's page, and keeps what goes wrong in them.

    Args:
        browser: that shows the views.
        url: address of the service.
    """

    def __init__(self, browser: Any, url: str) -> None:
        self._browser = browser
        self.url = url
        """Address of the service."""
        self.requests: list[str] = []
        """Addresses of all requests, in their order."""
        self.problems: list[str] = []
        """Errors on the console, uncaught errors, and requests to another origin."""
        self._contexts: list[Any] = []

    def __call__(
        self,
        name: str = "config",
        *,
        fragment: dict[str, object] | str = "",
        language: str = "en",
        color_scheme: str = "light",
        width: int = 1440,
        height: int = 900,
        reduced_motion: str = "reduce",
        javascript: bool = True,
        url: str | None = None,
        before: Callable[[Any], object] = lambda page: None,
        ready: str | None = "#main h1",
        **options: Any,
    ) -> Any:
        """Open a view in a browser of its own, without cookies and stored values; return the page.

        Args:
            name: of the view, such as "config"; "" is the first view, at `/ui/`.
            fragment: state of the view; a dict is encoded.
            language: "en" or "zh"; the first language of the browser.
            color_scheme: "light" or "dark".
            width: of the window in CSS pixels.
            height: of the window in CSS pixels.
            reduced_motion: "reduce" or "no-preference".
            javascript: whether scripts run.
            url: address of another service or proxy.
            before: called with the empty page, for example to route requests.
            ready: selector of what is waited for; None: only for the document.
            options: others of Playwright's `Browser.new_context`.
        """
        context = self._browser.new_context(
            locale={"en": "en-US", "zh": "zh-CN"}.get(language, language),
            color_scheme=color_scheme,
            viewport={"width": width, "height": height},
            reduced_motion=reduced_motion,
            java_script_enabled=javascript,
            **options,
        )
        context.set_default_timeout(30_000)
        self._contexts.append(context)
        page = context.new_page()
        url = url or self.url
        self._watch(page, url)
        before(page)
        if not isinstance(fragment, str):
            fragment = urlencode(fragment)
        path = f"{name}.html" if name else ""
        page.goto(f"{url}/ui/{path}" + (f"#{fragment}" if fragment else ""))
        if ready is not None:
            page.wait_for_selector(ready)
        return page

    def forgive(self, pattern: str) -> None:
        """Remove expected problems, all that contain the pattern; there must be one.

        Chromium writes an error to the console for each answer of 400 and above.
        """
        kept = [each for each in self.problems if not re.search(pattern, each)]
        assert len(kept) < len(self.problems), f"no problem contains {pattern}: {self.problems}"
        self.problems = kept

    def close(self) -> None:
        """Close all pages."""
        for context in self._contexts:
            context.close()

    def _watch(self, page: Any, url: str) -> None:
        origin = urlsplit(url)[:2]

        def on_request(request: Any) -> None:
            self.requests.append(request.url)
            parts = urlsplit(request.url)
            if parts.scheme not in ("data", "blob") and parts[:2] != origin:
                self.problems.append(f"request to another origin: {request.url}")

        def on_console(message: Any) -> None:
            if message.type in ("error", "warning"):
                where = message.location.get("url", "")
                self.problems.append(f"console: {message.text} {where}")

        page.on("request", on_request)
        page.on("console", on_console)
        page.on("pageerror", lambda error: self.problems.append(f"error: {error.stack or error}"))


@pytest.fixture
def open_view(browser: Any, server: Started) -> Iterator[Views]:
    """`open_view("config", language="zh")` returns a Playwright page of the running service.

    At the end of the test there must be no error on the console, no uncaught error and no request
    to another origin; `open_view.forgive` removes those that a test expects.
    """
    views = Views(browser, server.url)
    yield views
    views.close()
    assert views.problems == []


@pytest.fixture(scope="package")
def axe() -> Callable[..., None]:
    """`axe(page)` fails with a list of what axe-core finds on a page."""
    module = pytest.importorskip("axe_playwright_python.sync_playwright")
    checker = module.Axe()

    def check(page: Any, **options: Any) -> None:
        only = {"type": "tag", "values": AXE_TAGS}
        options = {"resultTypes": ["violations"], "runOnly": only, **options}
        found = checker.run(page, options=options).response["violations"]
        lines = [
            f"{rule['id']}: {node['html'][:160]} {node['failureSummary'][:300]}"
            for rule in found
            for node in rule["nodes"]
        ]
        assert not lines, "\n".join(lines)

    return check


def assert_no_overflow(page: Any) -> None:
    """Assert that the page does not scroll sideways; name what is too wide."""
    wide = page.evaluate(
        """() => {
            const width = document.documentElement.clientWidth;
            if (document.documentElement.scrollWidth <= width) return [];
            return [...document.querySelectorAll("body *")]
                .filter((e) => e.getBoundingClientRect().right > width + 1)
                .map((e) => `${e.tagName}.${e.getAttribute("class")} ${e.textContent.slice(0, 40)}`)
                .slice(0, 8);
        }"""
    )
    assert wide == [], wide


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the figures that the tests of the budgets have measured."""
    lines = {
        f"{report.nodeid.partition('[')[2].rstrip(']') or report.nodeid}: {text}"
        for report in terminalreporter.stats.get("passed", [])
        for name, text in report.user_properties
        if name == "budget"
    }
    for line in sorted(lines):
        terminalreporter.write_line(f"budget of the page, {line}")

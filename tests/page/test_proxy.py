"""The page behind a proxy that serves the service below a prefix."""

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import httpx
import pytest

from tests.page.conftest import VIEWS

PREFIX = "/models/rope"


@pytest.fixture(scope="module")
def proxy(server_url) -> Iterator[str]:
    """The address of the service behind a proxy that strips the prefix."""
    client = httpx.Client(base_url=server_url)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if not self.path.startswith(f"{PREFIX}/"):
                self.send_error(404)
                return
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            names = ("accept", "content-type", "if-none-match")
            headers = {name: self.headers[name] for name in names if name in self.headers}
            path = self.path.removeprefix(PREFIX)
            answer = client.request(self.command, path, content=body, headers=headers)
            self.send_response(answer.status_code)
            skipped = ("content-length", "content-encoding", "transfer-encoding", "connection")
            for name, value in answer.headers.items():
                if name not in skipped:
                    self.send_header(name, value)
            self.send_header("content-length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        do_POST = do_GET

        def log_message(self, *_):
            pass

    with client, ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}{PREFIX}"
        running.shutdown()


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_works_below_a_prefix(open_view, proxy, name):
    """The problems that are collected have each request outside of the prefix, as 404."""
    page = open_view(name, url=proxy)
    page.get_by_text("ready · cpu").wait_for()
    page.wait_for_load_state("networkidle")
    assert all(request.startswith((proxy, "data:")) for request in open_view.requests)


@pytest.mark.parametrize("path", ["/", "/ui"])
def test_redirects_stay_below_the_prefix(open_view, proxy, path):
    page = open_view(url=proxy, ready=None)
    page.goto(f"{proxy}{path}")
    page.wait_for_url(f"{proxy}/ui/")
    page.wait_for_selector("#main h1")

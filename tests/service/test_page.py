"""Delivery of the page: files, headers, redirects, refusals, and a service without the page."""

import gzip
import json
from base64 import b64encode
from hashlib import sha256
from importlib.resources import files

import pytest

from service.lifecycle import Lifecycle
from service.observability import logs
from service.page.application import accepts_gzip, wants_page
from service.page.files import MEDIA_TYPES, read_files
from tests.service.access.keys_files import write_all
from tests.service.conftest import asking, every_test_in_one_loop, running

STATIC = files("service.page") / "static"
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


@every_test_in_one_loop
@pytest.mark.parametrize("name", sorted(name for name in read_files() if name))
async def test_each_file_is_reachable(shared_client, name):
    answer = await shared_client.get(f"/ui/{name}")
    assert answer.status_code == 200
    assert answer.content == STATIC.joinpath(name).read_bytes()
    assert answer.headers["content-type"].encode() == MEDIA_TYPES[name.rpartition(".")[2]]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["referrer-policy"] == "no-referrer"
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "access-control-allow-origin" not in answer.headers


@every_test_in_one_loop
async def test_the_first_view_is_at_the_folder(shared_client):
    answer = await shared_client.get("/ui/")
    assert answer.content == STATIC.joinpath("config.html").read_bytes()


@every_test_in_one_loop
@pytest.mark.parametrize("coding", ["gzip", "identity", "br", "gzip;q=0", "br, GZIP;q=0.5"])
async def test_a_file_is_compressed_for_clients_that_read_gzip(shared_client, coding):
    asked = {"accept-encoding": coding}
    async with shared_client.stream("GET", "/ui/vendor.js", headers=asked) as answer:
        raw = b"".join([part async for part in answer.aiter_raw()])
    plain = STATIC.joinpath("vendor.js").read_bytes()
    assert answer.headers["vary"] == "accept-encoding"
    assert int(answer.headers["content-length"]) == len(raw)
    if accepts_gzip(coding.encode()):
        assert answer.headers["content-encoding"] == "gzip"
        assert len(raw) < len(plain) / 2
        raw = gzip.decompress(raw)
    else:
        assert "content-encoding" not in answer.headers
    assert raw == plain


def test_which_codings_are_gzip():
    accepted = [b"gzip", b"br, gzip", b"gzip;q=0.1", b"GZIP ; q=1"]
    refused = [b"", b"br", b"gzip;q=0", b"gzip; q=0.000", b"xgzip"]
    assert [text for text in accepted + refused if accepts_gzip(text)] == accepted


@every_test_in_one_loop
@pytest.mark.parametrize("coding", ["gzip", "identity"])
async def test_a_file_is_not_sent_twice(shared_client, coding):
    headers = {"accept-encoding": coding}
    first = await shared_client.get("/ui/page.js", headers=headers)
    for known in (first.headers["etag"], f'"x", W/{first.headers["etag"]}', "*"):
        again = await shared_client.get("/ui/page.js", headers=headers | {"if-none-match": known})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == first.headers["etag"]
        assert again.headers["content-security-policy"]
    other = await shared_client.get("/ui/page.js", headers={"if-none-match": '"other"'})
    assert other.status_code == 200


@every_test_in_one_loop
async def test_head_has_the_headers_of_get(shared_client):
    got = await shared_client.get("/ui/style.css")
    head = await shared_client.head("/ui/style.css")
    assert (head.status_code, head.content) == (200, b"")
    for answer in (got, head):
        del answer.headers["x-request-id"]
    assert head.headers == got.headers


@every_test_in_one_loop
@pytest.mark.parametrize(
    "path", ["/ui/none.js", "/ui/../settings.py", "/ui/%2e%2e/settings.py", "/ui//style.css"]
)
async def test_an_unknown_file_is_a_problem_document(shared_client, path):
    answer = await shared_client.get(path)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "not_found"


@every_test_in_one_loop
async def test_other_methods_are_refused(shared_client):
    answer = await shared_client.post("/ui/style.css", json={})
    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET, HEAD"
    assert answer.json()["code"] == "method_not_allowed"


@every_test_in_one_loop
@pytest.mark.parametrize(("path", "accept"), [("/ui", "*/*"), ("/ui", BROWSER), ("/", BROWSER)])
async def test_redirects_are_relative(shared_client, path, accept):
    answer = await shared_client.get(path, headers={"accept": accept}, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (307, "ui/")
    assert answer.headers["vary"] == "accept"


@every_test_in_one_loop
@pytest.mark.parametrize("accept", ["*/*", "application/json", "application/json, text/htmlx"])
async def test_programs_get_the_index(shared_client, accept):
    answer = await shared_client.get("/", headers={"accept": accept})
    assert answer.json()["page"] == "/ui/"
    assert answer.headers["vary"] == "accept"


def test_which_clients_are_browsers():
    assert wants_page(BROWSER.encode())
    assert wants_page(b"application/json, text/html;q=0.5")
    assert not wants_page(b"")


async def test_metrics_have_one_label(client):
    for path in ("/ui", "/ui/", "/ui/style.css", "/ui/none", "/uix"):
        await client.get(path)
    lines = (await client.get("/metrics")).text.splitlines()
    counted = [line for line in lines if line.startswith("rope_requests_total{")]
    assert {line for line in counted if "/ui" in line} == {
        'rope_requests_total{route="/ui",status="200"} 2.0',
        'rope_requests_total{route="/ui",status="307"} 1.0',
        'rope_requests_total{route="/ui",status="404"} 1.0',
    }
    assert 'rope_requests_total{route="other",status="404"} 1.0' in counted


@pytest.mark.parametrize("level", ["info", "debug"])
async def test_files_are_logged_at_debug_only(monkeypatch, level):
    lines = []
    monkeypatch.setattr(logs.output, "write", lines.extend)
    async with running(Lifecycle(), log_level=level) as app, asking(app) as client:
        for path in ("/ui/style.css", "/ui/none", "/version"):
            await client.get(path)
    paths = [json.loads(line).get("path") for line in lines]
    expected = ["/ui/style.css", "/ui/none"] if level == "debug" else []
    assert [path for path in paths if path] == [*expected, "/version"]


async def test_the_page_is_there_in_every_phase():
    lifecycle = Lifecycle()
    async with running(lifecycle) as app, asking(app) as client:
        assert (await client.get("/ui/")).status_code == 200  # warms up, perhaps
        lifecycle.drain()
        assert (await client.get("/readyz")).status_code == 503
        assert (await client.get("/ui/")).status_code == 200


async def test_a_service_without_the_page():
    async with running(Lifecycle(), page=False) as app, asking(app) as client:
        for path in ("/ui", "/ui/", "/ui/style.css"):
            answer = await client.get(path)
            assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
        index = await client.get("/", headers={"accept": BROWSER})
        assert "page" not in index.json()
        assert 'route="/ui"' not in (await client.get("/metrics")).text


async def test_the_files_need_no_key_and_the_calls_do(tmp_path):
    keys_file = write_all(tmp_path / "keys.toml")
    async with running(Lifecycle(), keys_file=keys_file) as app, asking(app) as client:
        for path in ("/ui", "/ui/", "/ui/page.js"):
            assert (await client.get(path)).status_code in (200, 307), path
        for path in ("/", "/version", "/v1/presets", "/docs", "/uix"):
            assert (await client.get(path)).status_code == 401, path


@every_test_in_one_loop
async def test_the_script_of_the_api_page_is_allowed_by_its_hash(shared_client):
    answer = await shared_client.get("/docs")
    script = answer.text.rpartition("<script>")[2].partition("</script>")[0]
    digest = b64encode(sha256(script.encode()).digest()).decode()
    policy = answer.headers["content-security-policy"]
    scripts = policy.partition("script-src")[2].partition(";")[0]
    assert scripts == f" 'self' 'sha256-{digest}'"

"""`--url`: the API key that requests have, and a sentence for each failure."""

from functools import partial

import httpx
import pytest

from service.cli import http_client


@pytest.fixture
def answer_with(monkeypatch):
    """Answer all requests with a response; return the requests."""

    def use(response):
        requests = []

        def handle(request):
            requests.append(request)
            if isinstance(response, Exception):
                raise response
            return response

        transport = httpx.MockTransport(handle)
        monkeypatch.setattr(http_client.httpx, "Client", partial(httpx.Client, transport=transport))
        return requests

    return use


def test_the_key_is_that_of_the_variable(cli, answer_with, monkeypatch):
    monkeypatch.setenv("ROPE_API_KEY", " rope_abc\n")
    requests = answer_with(httpx.Response(200, content=b'{"presets": [], "refused": []}'))
    assert cli("presets", "--json", "--url", "http://x/prefix/").code == 0
    (request,) = requests
    assert str(request.url) == "http://x/prefix/v1/presets"
    assert request.headers["authorization"] == "Bearer rope_abc"


@pytest.mark.parametrize(
    ("response", "text"),
    [
        (httpx.Response(401, json={"detail": "no key"}), "no key; set ROPE_API_KEY to the API key"),
        (httpx.Response(422, json={"detail": "x must be y"}), "rope-service: x must be y\n"),
        (httpx.Response(503, json={"detail": "full"}), "the service answered 503: full"),
        (httpx.Response(404, text="<html>"), "the service answered 404: <html>"),
        (httpx.Response(502, json=[1]), "the service answered 502: [1]"),
        (httpx.Response(302), "the service answered 302: "),
        (httpx.ReadTimeout("slow"), "cannot reach the service at http://x: slow"),
        (httpx.Response(200, content=b"no tensors"), "is no answer of a rope-service"),
    ],
)
def test_a_failure_gets_one_sentence(cli, answer_with, response, text):
    answer_with(response)
    ended = cli("inspect", "llama-3.1-8b", "--url", "http://x")
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert text in ended.err


def test_a_list_that_is_no_json_gets_a_sentence(cli, answer_with):
    answer_with(httpx.Response(200, text="<html>"))
    for command in ("presets", "variants"):
        ended = cli(command, "--url", "http://x")
        assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)


@pytest.mark.parametrize("key", ["é", "a\nb"])
def test_a_key_that_no_header_can_have_is_not_shown(cli, monkeypatch, key):
    monkeypatch.setenv("ROPE_API_KEY", key)
    ended = cli("presets", "--url", "http://127.0.0.1:9")
    text = "rope-service: ROPE_API_KEY must have printable characters of ASCII only\n"
    assert ended == (2, "", text)


def test_certificates_that_cannot_be_read_get_a_sentence(cli, monkeypatch):
    def refuse(**_):
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(http_client.httpx, "Client", refuse)
    ended = cli("presets", "--url", "https://127.0.0.1:9")
    text = "cannot read the certificates that SSL_CERT_FILE or SSL_CERT_DIR names: No such file"
    assert (ended.code, ended.err.startswith(f"rope-service: {text}")) == (2, True)

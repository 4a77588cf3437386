"""Bodies and messages that are compressed, both ways."""

import httpx
import pytest
import torch

from tests.core.oracle import randn
from tests.service.oip.clients.expected import check_rotated, rotate

X = torch.cat((randn(1, 50, 4, 64), torch.zeros(1, 50, 4, 64)), 1)
CODINGS = ("gzip", "deflate")
LENGTH = "inference-header-content-length"


def compressed(client, coding, *ways):
    if client.wire == "grpc":
        return {"compression_algorithm": coding}
    return {f"{way}_compression_algorithm": coding for way in ways}


@pytest.mark.parametrize("ways", [("request",), ("response",), ("request", "response")], ids=str)
@pytest.mark.parametrize("coding", CODINGS)
def test_both_ways(client, coding, ways):
    for in_json, outputs in (((), None), (("q",), {"q": False})):
        compression = compressed(client, coding, *ways)
        answer = client.infer("rope", {"q": X}, outputs, in_json, **compression)
        check_rotated(answer["q"], rotate(X), torch.float32)
    answers = client.infer_all([client.request("rope", {"q": X}, **compression) for _ in range(4)])
    for answer in answers:
        check_rotated(answer["q"], rotate(X), torch.float32)


@pytest.mark.parametrize("coding", CODINGS)
def test_errors_of_compressed_requests_are_readable(client, refused, coding):
    with refused("400", "q"):
        client.infer("rope", {"q": X[0, 0]}, **compressed(client, coding, "request", "response"))


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("gzip, deflate", None),
        ("gzip, deflate, br", None),
        ("br", None),
        ("identity", None),
        ("gzip;q=0, deflate", "deflate"),
    ],
)
@pytest.mark.parametrize("kind", ["http", "http.aio"], indirect=True)
def test_a_response_is_compressed_if_one_coding_is_accepted(client, target, accepted, coding):
    """The client makes and reads the bodies; httpx sends them and shows the headers."""
    body, length = client.generate_request_body([client.input("q", X)], request_id="7")
    headers = {"accept-encoding": accepted, LENGTH: str(length)}
    url = f"{target.url}/v2/models/rope/infer"
    with httpx.stream("POST", url, content=body, headers=headers) as response:
        raw = b"".join(response.iter_raw())
    assert response.status_code == 200
    assert response.headers.get("content-encoding") == coding
    assert (len(raw) < X.nbytes) is (coding is not None)
    parsed = client.parse_response_body(
        raw, header_length=response.headers[LENGTH], content_encoding=coding
    )
    check_rotated(torch.tensor(parsed.as_numpy("q")), rotate(X), torch.float32)


@pytest.mark.parametrize("path", ["/v2", "/v2/models/rope", "/v2/models/stats", "/v2/models/nope"])
def test_nothing_else_is_compressed(target, path):
    for accepted in ("gzip", "deflate", "gzip, deflate, br"):
        response = httpx.get(f"{target.url}{path}", headers={"accept-encoding": accepted})
        assert "content-encoding" not in response.headers
        assert response.headers["content-type"] == "application/json"

"""gzip and deflate, both ways, on bodies that infer and on no others."""

import gzip
import json
import zlib

import numpy as np
import pytest

from service.oip.http.compression import MAX_RATIO, STEP_BYTES, response_coding
from service.server.app import create_app
from service.settings import Settings
from tests.service.conftest import asking, running

X = {"name": "q", "shape": [1, 2, 1, 4], "datatype": "FP32"}
BLOB = np.arange(8, dtype="<f4").tobytes()
PATH = "/v2/models/rope/infer"
LENGTH = "inference-header-content-length"


def body(binary: bool) -> tuple[bytes, dict[str, str]]:
    carried = {"parameters": {"binary_data_size": 32}} if binary else {"data": [*range(8)]}
    asked = {"inputs": [X | carried], "parameters": {"binary_data_output": binary}}
    text = json.dumps(asked).encode()
    return (text + BLOB, {LENGTH: str(len(text))}) if binary else (text, {})


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize(
    ("coding", "encode"),
    [("gzip", gzip.compress), ("deflate", zlib.compress), ("deflate", gzip.compress)],
)
async def test_a_compressed_request_is_answered_as_a_plain_one(client, coding, encode, binary):
    plain, headers = body(binary)
    expected = await client.post(PATH, content=plain, headers=headers)
    headers |= {"content-encoding": coding}
    response = await client.post(PATH, content=encode(plain), headers=headers)
    assert response.status_code == 200, response.text
    assert response.content == expected.content


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize(("coding", "window"), [("gzip", 31), ("deflate", 15)])
async def test_an_answer_is_compressed_if_the_client_accepts_one_coding(
    client, coding, window, binary
):
    plain, headers = body(binary)
    expected = await client.post(PATH, content=plain, headers=headers)
    named = headers | {"accept-encoding": coding}
    request = client.build_request("POST", PATH, content=plain, headers=named)
    response = await client.send(request, stream=True)
    raw = b"".join([piece async for piece in response.aiter_raw()])
    assert response.headers["content-encoding"] == coding
    assert response.headers["content-length"] == str(len(raw))
    assert response.headers.get(LENGTH) == expected.headers.get(LENGTH)
    assert zlib.decompress(raw, window) == expected.content


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        (None, None),
        (b"gzip", b"gzip"),
        (b" GZip ; q=0.5 , identity", b"gzip"),
        (b"deflate", b"deflate"),
        (b"gzip, deflate", None),
        (b"gzip, deflate, br", None),
        (b"gzip;q=0, deflate", b"deflate"),
        (b"gzip;q=0.000", None),
        (b"br, zstd, *", None),
        (b"", None),
    ],
)
def test_a_client_that_accepts_several_codings_gets_no_compression(accepted, coding):
    assert response_coding(accepted) == coding


async def test_other_routes_do_not_compress(client):
    for path in ("/v2", "/v2/models/rope/stats", "/v2/models/nope"):
        response = await client.get(path, headers={"accept-encoding": "gzip"})
        assert "content-encoding" not in response.headers
    response = await client.post(PATH, content=b"{", headers={"accept-encoding": "gzip"})
    assert response.status_code == 400
    assert "content-encoding" not in response.headers
    assert response.headers["content-type"] == "application/json"


GOOD = gzip.compress(body(False)[0])
BROKEN = {
    "no gzip": (b"{}", "broken"),
    "nothing": (b"", "ends early"),
    "cut short": (GOOD[:-9], "ends early"),
    "without its end": (GOOD[:-1], "ends early"),
    "a wrong sum": (GOOD[:-8] + bytes(4) + GOOD[-4:], "broken"),
    "more behind": (GOOD + b"x", "trailing bytes"),
}


@pytest.mark.parametrize(("content", "text"), BROKEN.values(), ids=BROKEN)
async def test_a_broken_body_is_refused(client, content, text):
    response = await client.post(PATH, content=content, headers={"content-encoding": "gzip"})
    assert response.status_code == 400
    assert text in response.json()["error"]
    assert "Error -" not in response.json()["error"], "no text of zlib"


async def test_the_ratio_of_a_body_is_limited_beyond_a_step(lifecycle):
    """E12, E13: a short body has no limit of its ratio."""
    headers = {"content-encoding": "gzip"}
    app = create_app(Settings(device="cpu", log_level="warning"), lifecycle)
    async with app.app.router.lifespan_context(app.app), asking(app) as client:
        for num_blanks, status in ((STEP_BYTES - 2, 400), (2 * STEP_BYTES, 413)):
            blanks = gzip.compress(b" " * num_blanks + b"{}")
            assert len(blanks) * MAX_RATIO < num_blanks
            response = await client.post(PATH, content=blanks, headers=headers)
            assert response.status_code == status, response.text
    assert (
        f"ratio of decompressed to compressed bytes may be at most {MAX_RATIO}"
        in response.json()["error"]
    )


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, gzip", "x"])
async def test_other_codings_are_refused(client, coding):
    response = await client.post(PATH, content=GOOD, headers={"content-encoding": coding})
    assert response.status_code == 415
    assert response.headers["accept-encoding"] == "gzip, deflate"
    assert [*response.json()] == ["error"]


async def test_a_decompressed_body_is_limited_and_charged(lifecycle):
    bomb = gzip.compress(bytes(2**26))
    assert len(bomb) < 2**18
    async with running(lifecycle) as app, asking(app) as client:
        for headers in ({}, {LENGTH: "10"}):
            encoded = headers | {"content-encoding": "gzip"}
            response = await client.post(PATH, content=bomb, headers=encoded)
            assert response.status_code == 413
            assert "decompressed" in response.json()["error"]
    async with running(lifecycle, memory_budget_bytes=2**16) as app, asking(app) as client:
        response = await client.post(PATH, content=GOOD, headers={"content-encoding": "gzip"})
        assert response.status_code == 200, "alone, it gets its share"

"""Tensors in regions of shared memory, in each form of the protocol."""

import secrets
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.service.oip.encodings import SPOKEN, PreparedCall, Refused, speaking

X = np.arange(8, dtype="<f4")
ROTATED = [0, 1, 2, 3, -2.8876166, 4.9297514, 6.607698, 7.0496492]


@pytest.fixture
def shared() -> Iterator[Path]:
    """An object of 128 bytes: 8 others, the input, others; zeros from 64 on."""
    path = Path("/dev/shm") / f"rope-test-{secrets.token_hex(4)}"
    path.write_bytes(b"\x07" * 8 + X.tobytes() + b"\x07" * 24 + bytes(64))
    yield path
    path.unlink()


@pytest.fixture(params=SPOKEN)
async def form(request, shared):
    async with speaking(shared_memory_prefix="rope-test-") as spoken:
        client = spoken["json"]._client
        asked = {"key": f"/{shared.name}", "offset": 8, "byte_size": 120}
        path = "/v2/systemsharedmemory/region/r/register"
        assert (await client.post(path, json=asked)).content == b""
        assert (await client.post(path, json=asked)).status_code == 400, "registered already"
        status = (await client.get("/v2/systemsharedmemory/status")).json()
        assert status == [{"name": "r", **asked}]
        yield spoken[request.param]


def place(size: int, offset: int = 0, region: str = "r") -> dict[str, str | int]:
    at = {"shared_memory_region": region, "shared_memory_byte_size": size}
    return at | ({"shared_memory_offset": offset} if offset else {})


def asked(of_input: dict[str, object], of_output: dict[str, object] | None = None) -> PreparedCall:
    x = {"datatype": "FP32", "shape": [1, 2, 1, 4], "parameters": of_input}
    outputs = None if of_output is None else [{"name": "rotated", "parameters": of_output}]
    return PreparedCall("rope", {"x": x}, outputs=outputs)


async def test_an_input_is_read_from_its_place(form):
    told = await form.infer(asked(place(32)))
    assert told.outputs["rotated"].flatten().tolist() == pytest.approx(ROTATED, rel=1e-6)


async def test_an_output_is_written_to_its_place_and_nowhere_else(form, shared):
    before = shared.read_bytes()
    told = await form.infer(asked(place(32), place(48, offset=56)))
    assert told.outputs == {}
    assert told.head["outputs"][0]["parameters"] == place(32, offset=56)
    after = shared.read_bytes()
    assert np.frombuffer(after[64:96], "<f4").tolist() == pytest.approx(ROTATED, rel=1e-6)
    assert after[:64] + after[96:] == before[:64] + before[96:]


@pytest.mark.parametrize(
    ("wrong", "status"),
    [
        (asked(place(32, region="s")), 1),
        (asked(place(32), place(32, region="s")), 1),
        (asked(place(31)), 0),
        (asked(place(33)), 0),
        (asked(place(32, offset=89)), 0),
        (asked(place(32, offset=2**63 - 1)), 0),
        (asked(place(-1)), 0),
        (asked({"shared_memory_region": "r"}), 0),
        (asked({"shared_memory_region": 7, "shared_memory_byte_size": 32}), 0),
        (asked(place(32), place(31)), 0),
    ],
)
async def test_places_that_there_are_not(form, shared, wrong, status):
    before = shared.read_bytes()
    with pytest.raises(Refused) as refused:
        await form.infer(wrong)
    assert refused.value.status == form.statuses[status]
    assert shared.read_bytes() == before


async def test_an_object_that_is_cut_short_is_refused(form, shared):
    with shared.open("r+b") as file:
        file.truncate(16)
    with pytest.raises(Refused) as refused:
        await form.infer(asked(place(32)))
    assert refused.value.status == form.statuses[0]
    assert shared.stat().st_size == 16

"""Tensors in shared memory, over each form of the protocol."""

import secrets
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.service.oip.encodings import ENCODINGS, InferCall, Refused, all_encodings

X = np.arange(8, dtype="<f4")
ROTATED = [0, 1, 2, 3, -2.8876166, 4.9297514, 6.607698, 7.0496492]


@pytest.fixture
def shared() -> Iterator[Path]:
    """An object of 128 bytes: 8 bytes of 7, the input, more bytes of 7, zeros from 64 on."""
    path = Path("/dev/shm") / f"rope-test-{secrets.token_hex(4)}"
    path.write_bytes(b"\x07" * 8 + X.tobytes() + b"\x07" * 24 + bytes(64))
    yield path
    path.unlink()


@pytest.fixture(params=ENCODINGS)
async def form(request, shared):
    async with all_encodings(shared_memory_prefix="rope-test-") as encodings:
        client = encodings["json"]._client
        region = {"key": f"/{shared.name}", "offset": 8, "byte_size": 120}
        path = "/v2/systemsharedmemory/region/r/register"
        assert (await client.post(path, json=region)).content == b""
        assert (await client.post(path, json=region)).status_code == 400, "registered already"
        status = (await client.get("/v2/systemsharedmemory/status")).json()
        assert status == [{"name": "r", **region}]
        yield encodings[request.param]


def in_region(size: int, offset: int = 0, region: str = "r") -> dict[str, str | int]:
    parameters = {"shared_memory_region": region, "shared_memory_byte_size": size}
    return parameters | ({"shared_memory_offset": offset} if offset else {})


def rotate_call(
    input_parameters: dict[str, object], output_parameters: dict[str, object] | None = None
) -> InferCall:
    x = {"datatype": "FP32", "shape": [1, 2, 1, 4], "parameters": input_parameters}
    outputs = [{"name": "q", "parameters": output_parameters}] if output_parameters else None
    return InferCall("rope", {"q": x}, outputs=outputs)


async def test_an_input_is_read_from_its_region(form):
    answer = await form.infer(rotate_call(in_region(32)))
    assert answer.outputs["q"].flatten().tolist() == pytest.approx(ROTATED, rel=1e-6)


async def test_an_output_is_written_to_its_region_and_nowhere_else(form, shared):
    before = shared.read_bytes()
    answer = await form.infer(rotate_call(in_region(32), in_region(48, offset=56)))
    assert answer.outputs == {}
    assert answer.header["outputs"][0]["parameters"] == in_region(32, offset=56)
    after = shared.read_bytes()
    assert np.frombuffer(after[64:96], "<f4").tolist() == pytest.approx(ROTATED, rel=1e-6)
    assert after[:64] + after[96:] == before[:64] + before[96:]


@pytest.mark.parametrize(
    ("wrong", "status"),
    [
        (rotate_call(in_region(32, region="s")), 1),
        (rotate_call(in_region(32), in_region(32, region="s")), 1),
        (rotate_call(in_region(31)), 0),
        (rotate_call(in_region(33)), 0),
        (rotate_call(in_region(32, offset=89)), 0),
        (rotate_call(in_region(32, offset=2**63 - 1)), 0),
        (rotate_call(in_region(-1)), 0),
        (rotate_call({"shared_memory_region": "r"}), 0),
        (rotate_call({"shared_memory_region": 7, "shared_memory_byte_size": 32}), 0),
        (rotate_call(in_region(32), in_region(31)), 0),
    ],
)
async def test_invalid_regions_are_refused(form, shared, wrong, status):
    before = shared.read_bytes()
    with pytest.raises(Refused) as refused:
        await form.infer(wrong)
    assert refused.value.status == form.statuses[status]
    assert shared.read_bytes() == before


async def test_a_truncated_object_is_refused(form, shared):
    with shared.open("r+b") as file:
        file.truncate(16)
    with pytest.raises(Refused) as refused:
        await form.infer(rotate_call(in_region(32)))
    assert refused.value.status == form.statuses[0]
    assert shared.stat().st_size == 16

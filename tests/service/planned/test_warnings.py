"""Attention whose tokens may be counted from a wrong position is answered with a warning.

Each request is sent until it has a plan; the answers are equal, byte for byte.
"""

import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
import torch

from rope_core import RopeConfig, Rotate, rotate
from service.wire import Parameters, safetensors_codec
from tests.service.planned.requests import Client, encode, post
from tests.service.planned.servers import Running, running
from tests.service.recorded.tensors import raw, wire

pytestmark = pytest.mark.asyncio(loop_scope="module")

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
FOLLOW = "1 queries for 8 keys. Give their positions as q_positions, from 7 on"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def service() -> AsyncIterator[Running]:
    async with running() as service:
        yield service


def heads(num_tokens: int, num_heads: int = 2, packed: bool = False) -> torch.Tensor:
    shape = (num_tokens, num_heads, 16) if packed else (1, num_tokens, num_heads, 16)
    return torch.randn(*shape, generator=torch.Generator().manual_seed(num_tokens))


def qkv(num_queries: int, num_keys: int, packed: bool = False) -> dict[str, torch.Tensor]:
    k = heads(num_keys, packed=packed)
    return {"q": heads(num_queries, 4, packed), "k": k, "v": k}


def counted(first: int, end: int) -> torch.Tensor:
    return torch.arange(first, end)[None]


ENDS = {"cu_seqlens_q": torch.tensor([0, 1, 4]), "cu_seqlens_k": torch.tensor([0, 8, 11])}
CASES = {
    "more keys": (qkv(1, 8), {}, FOLLOW),
    "more keys, rotated already": (qkv(1, 8), {"rotate": "q"}, FOLLOW),
    "more queries": (qkv(9, 8), {}, "9 queries for 8 keys. Give their positions as q_positions"),
    "a pack": (qkv(4, 11, True) | ENDS, {}, "1 queries for 8 keys in a packed sequence"),
    "an index": (qkv(8, 8), {"q_offset": 8, "k_offset": 8}, "as q_positions and k_positions"),
    "keys alone": (qkv(8, 8) | {"k_positions": counted(4, 12)}, {}, "k_positions are given, but"),
    "queries, and keys with an index": (
        qkv(8, 8) | {"q_positions": counted(8, 16)},
        {"q_offset": 8, "k_offset": 4},
        "the rotation counts the tokens of k from position 0",
    ),
    "as many keys": (qkv(8, 8), {}, None),
    "a pack of as many keys": (qkv(4, 4, True) | {"cu_seqlens": ENDS["cu_seqlens_q"]}, {}, None),
    "positions of queries": (qkv(1, 8) | {"q_positions": counted(7, 8)}, {}, None),
    "keys alone rotate": (qkv(1, 8), {"rotate": "k"}, None),
    "nothing rotates": (qkv(1, 8), {"rotate": "none"}, None),
    "no rope": (qkv(1, 8), {"rope": None}, None),
}


async def answers(service: Running, request: bytes) -> list[tuple[int, bytes, bytes]]:
    """Return the answers to three equal requests: only the last one can have a plan."""
    client = await Client.connect(service.address)
    found = [(await client.ask(request)).lasting for _ in range(3)]
    client.leave()
    return found


@pytest.mark.parametrize(("tensors", "params", "expected"), CASES.values(), ids=CASES)
async def test_v1(service: Running, tensors, params, expected):
    num_planned = len(service.statuses)
    request = post("/v1/attention", encode(tensors, Parameters.of({"rope": {}} | params)))
    first, *others = await answers(service, request)
    assert others == [first, first]
    is_number_free = "cu_seqlens_q" not in tensors
    assert (len(service.statuses) > num_planned) == is_number_free
    assert first[0] == 200
    values = safetensors_codec.decode(first[2]).message.params.values
    fields = dict(line.split(b": ", 1) for line in first[1].split(b"\r\n") if b": " in line)
    in_header = fields.get(b"x-rope-warnings")
    if expected is None:
        assert "warnings" not in values
        assert in_header is None
    else:
        (warning,) = values["warnings"]
        assert expected in warning
        assert json.loads(in_header) == [warning]


async def test_v2(service: Running):
    tensors = qkv(1, 8)
    for rope_id in ("", "rope.id", "mine"):
        document = {
            **({"id": rope_id} if rope_id else {}),
            "inputs": [wire(name, x, binary=True) for name, x in tensors.items()],
            "parameters": {"binary_data_output": True},
        }
        text = json.dumps(document).encode()
        length = {"inference_header_content_length": str(len(text))}
        body = text + b"".join(map(raw, tensors.values()))
        request = post("/v2/models/rope_attention/infer", body, **length)
        num_planned = len(service.statuses)
        first, *others = await answers(service, request)
        assert others == [first, first]
        assert len(service.statuses) > num_planned
        assert FOLLOW.encode() in first[2]


async def test_a_pack_whose_lengths_change(service: Running):
    for last in (4, 3, 4):
        ends = {"cu_seqlens_q": torch.tensor([0, 2, 5]), "cu_seqlens_k": torch.tensor([0, 2, 5])}
        ends["cu_seqlens_k"] = torch.tensor([0, last - 2, 5])
        request = post("/v1/attention", encode(qkv(5, 5, True) | ends, Parameters.of({"rope": {}})))
        for status, _, body in await answers(service, request):
            assert status == 200
            assert (b"warnings" in body) == (last == 3)


@pytest.mark.parametrize("num_queries", [1, 3, 8])
async def test_a_cache_of_rotated_keys(service: Running, num_queries: int):
    tensors, positions = qkv(num_queries, 8), torch.arange(8)[None]
    last = positions[:, 8 - num_queries :].contiguous()
    both = tensors | {"q_positions": last, "k_positions": positions}
    rotated = rotate(Rotate(None, tensors["k"], RopeConfig.of(16, **YARN))).k
    cache = tensors | {"k": rotated, "positions": last}
    bodies = []
    for sent, side in ((both, "both"), (cache, "q")):
        params = Parameters.of({"rope": YARN, "rotate": side})
        num_planned = len(service.statuses)
        found = await answers(service, post("/v1/attention", encode(sent, params)))
        assert len(service.statuses) > num_planned
        bodies += [body for _, _, body in found]
    assert len({*bodies}) == 1
    assert b"warnings" not in bodies[0]


XPOS, DYNAMIC = {"rope_type": "xpos"}, {"rope_type": "dynamic", "factor": 2.0}
LENGTHS = {
    "xpos": (XPOS, "q", "xpos depends on the length, here that of this call: k must have been"),
    "keys": (XPOS, "k", "xpos depends on the length, here that of this call: q must have been"),
    "xpos of a length": (XPOS | {"length": 8}, "q", None),
    "both sides": (XPOS, "both", None),
    "no side": (XPOS, "none", None),
    "dynamic, long": (DYNAMIC | {"max_position_embeddings": 7}, "q", "dynamic depends on"),
    "dynamic, short": (DYNAMIC | {"max_position_embeddings": 8}, "q", None),
}


@pytest.mark.parametrize(("rope", "side", "expected"), LENGTHS.values(), ids=LENGTHS)
async def test_a_cache_whose_rotation_depends_on_a_length(service: Running, rope, side, expected):
    positions = {} if side == "none" else {"positions": counted(0, 8)}
    params = Parameters.of({"rope": rope, "rotate": side})
    request = post("/v1/attention", encode(qkv(8, 8) | positions, params))
    for status, _, body in await answers(service, request):
        assert status == 200
        values = safetensors_codec.decode(body).message.params.values
        assert [expected in text for text in values.get("warnings", ())] == [True] * bool(expected)

"""The index of tokens in their sequence, which says what a mask shows."""

import pytest
import torch

from rope_core import Attend, AttentionConfig, RopeConfig, attend
from service.wire import Message
from tests.core import oracle
from tests.service import rope_formulas
from tests.service.messages import answered, params
from tests.service.test_routes import heads

ROWS = torch.tensor([[0, 4, 8, 12, 16], [1, 2, 3, 5, 40]])
ENDS = torch.tensor([0, 2, 2, 5])
MASKED = {"window": 7, "chunk": 16, "return_lse": True}


def check(answer, q, k, v, q_index, k_index, *, ends=None):
    """Compare the bits with the library, and the numbers with the reference in float64."""
    config = AttentionConfig(window=7, chunk=16)
    call = Attend(
        *(q, k, v, RopeConfig.of(8), config),
        cu_seqlens_q=ends,
        cu_seqlens_k=ends,
        return_lse=True,
        q_index=q_index,
        k_index=k_index,
    )
    expected = attend(call)
    assert torch.equal(answer.tensors["out"], expected.out)
    assert torch.equal(answer.tensors["lse"], expected.lse)

    lengths = [q.shape[-3]] if ends is None else ends.diff().tolist()
    positions = torch.cat([torch.arange(length) for length in lengths])
    rotated = [rope_formulas.rotate(x, positions[: x.shape[-3]], {}) for x in (q, k)]
    q_index, k_index = (positions if index is None else index for index in (q_index, k_index))
    rows = [slice(None)] if ends is not None else range(len(q))
    for row in rows:
        index = tuple(i[row] if i.ndim == 2 else i for i in (q_index, k_index))
        heads = (*(x[row] for x in rotated), v[row], config)
        out, lse = oracle.expect(*heads, ends, ends, index=index)
        assert oracle.off(answer.tensors["out"][row], out) < oracle.ATTEND_BAR[torch.float32]
        assert oracle.lse_off(answer.tensors["lse"][row], lse) < oracle.LSE_BAR[torch.float32]


@pytest.mark.parametrize("k_index", [None, ROWS, ROWS[0]], ids=["none", "rows", "one row"])
async def test_an_index_as_a_tensor(client, codec, k_index):
    q, k, v, q_index = heads(4), heads(2), heads(2) + 1, torch.tensor([20, 4, 9, 9, -1])
    tensors = {"q": q, "k": k, "v": v, "q_index": q_index}
    if k_index is not None:
        tensors["k_index"] = k_index
    message = Message(tensors, params(**MASKED))
    answer = await answered(client, codec, "/v1/attention", message)
    check(answer, q, k, v, q_index, k_index)


@pytest.mark.parametrize(
    ("values", "q_index", "k_index"),
    [
        ({"q_offset": 3}, torch.arange(3, 8), None),
        ({"q_offset": -2, "k_offset": -4}, torch.arange(-2, 3), torch.arange(-4, 1)),
        ({"q_offset": 9, "k_stride": 4}, torch.arange(9, 14), torch.arange(0, 20, 4)),
        (
            {"q_offset": 9, "k_offset": 2, "k_stride": 3},
            torch.arange(9, 14),
            torch.arange(2, 17, 3),
        ),
        (
            {"q_offset": 2**62 - 5, "k_offset": -(2**62), "k_stride": 2**61},
            2**62 - 5 + torch.arange(5),
            2**61 * torch.arange(-2, 3),
        ),
    ],
    ids=lambda each: str(each) if isinstance(each, dict) else "",
)
async def test_an_index_as_offset_and_stride(client, codec, values, q_index, k_index):
    q, k, v = heads(4), heads(2), heads(2) + 1
    if 2**61 in values.values():
        k_index = k_index[:4]
        k, v = k[:, :4], v[:, :4]
    message = Message({"q": q, "k": k, "v": v}, params(**MASKED, **values))
    answer = await answered(client, codec, "/v1/attention", message)
    check(answer, q, k, v, q_index, k_index)


async def test_one_index_as_a_tensor_and_the_other_as_parameters(client, codec):
    q, k, v, q_index = heads(4), heads(2), heads(2) + 1, torch.tensor([20, 4, 9, 9, -1])
    tensors = {"q": q, "k": k, "v": v, "q_index": q_index}
    message = Message(tensors, params(**MASKED, k_offset=1, k_stride=2))
    answer = await answered(client, codec, "/v1/attention", message)
    check(answer, q, k, v, q_index, torch.arange(1, 11, 2))


async def test_offsets_begin_in_each_packed_sequence(client, codec):
    q, k, v = heads(4)[0], heads(2)[0], heads(2)[0] + 1
    tensors = {"q": q, "k": k, "v": v, "cu_seqlens": ENDS}
    message = Message(tensors, params(**MASKED, q_offset=6, k_offset=5, k_stride=2))
    answer = await answered(client, codec, "/v1/attention", message)
    counted = torch.tensor([0, 1, 0, 1, 2])
    check(answer, q, k, v, 6 + counted, 5 + 2 * counted, ends=ENDS)


async def test_no_tokens_have_no_last_index(client, codec):
    empty = {name: torch.empty(1, 0, 2, 8) for name in "qkv"}
    text = params(q_offset=2**62 - 1, k_stride=2**62 - 1)
    answer = await answered(client, codec, "/v1/attention", Message(empty, text))
    assert answer.tensors["out"].shape == (1, 0, 2, 8)


async def test_an_index_in_nested_lists(client):
    token = [[[1.0, 2.0]], [[3.0, 4.0]]]
    body = {"q": token, "k": token, "v": token, "rope": None, "return_lse": True}
    answer = (await client.post("/v1/attention", json=body | {"q_index": [1, 0]})).json()
    assert answer["out"]["data"][2:] == [1, 2], (
        "the query with index 0 sees only the key with index 0"
    )

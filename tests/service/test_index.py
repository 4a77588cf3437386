"""Parts of the keys that say where in their sequence they are."""

import pytest
import torch

from rope_core import Attend, AttentionConfig, RopeConfig, attend
from service.wire import Message
from tests.service.messages import answered, params
from tests.service.test_routes import heads

ROWS = torch.tensor([[0, 4, 8, 12, 16], [1, 2, 3, 5, 40]])
ENDS = torch.tensor([0, 2, 2, 5])
ASKED = {"window": 7, "chunk": 16, "return_lse": True}


def expected(q, k, v, q_index, k_index, *, ends=None):
    call = Attend(
        *(q, k, v, RopeConfig.of(8), AttentionConfig(window=7, chunk=16)),
        cu_seqlens_q=ends,
        cu_seqlens_k=ends,
        return_lse=True,
        q_index=q_index,
        k_index=k_index,
    )
    return attend(call)


def assert_equal(answer, wanted):
    assert torch.equal(answer.tensors["out"], wanted.out)
    assert torch.equal(answer.tensors["lse"], wanted.lse)


@pytest.mark.parametrize("k_index", [None, ROWS, ROWS[0]], ids=["none", "rows", "one row"])
async def test_tensors_are_the_librarys(client, codec, k_index):
    q, k, v, q_index = heads(4), heads(2), heads(2) + 1, torch.tensor([20, 4, 9, 9, -1])
    given = {"q_index": q_index} | ({} if k_index is None else {"k_index": k_index})
    message = Message({"q": q, "k": k, "v": v, **given}, params(**ASKED))
    answer = await answered(client, codec, "/v1/attention", message)
    assert_equal(answer, expected(q, k, v, q_index, k_index))


@pytest.mark.parametrize(
    ("given", "q_index", "k_index"),
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
async def test_parameters_say_what_a_tensor_would(client, codec, given, q_index, k_index):
    q, k, v = heads(4), heads(2), heads(2) + 1
    if 2**61 in given.values():
        k_index = k_index[:4]
        k, v = k[:, :4], v[:, :4]
    message = Message({"q": q, "k": k, "v": v}, params(**ASKED, **given))
    answer = await answered(client, codec, "/v1/attention", message)
    assert_equal(answer, expected(q, k, v, q_index, k_index))


async def test_one_side_may_be_a_tensor_and_the_other_parameters(client, codec):
    q, k, v, q_index = heads(4), heads(2), heads(2) + 1, torch.tensor([20, 4, 9, 9, -1])
    tensors = {"q": q, "k": k, "v": v, "q_index": q_index}
    message = Message(tensors, params(**ASKED, k_offset=1, k_stride=2))
    answer = await answered(client, codec, "/v1/attention", message)
    assert_equal(answer, expected(q, k, v, q_index, torch.arange(1, 11, 2)))


async def test_parameters_count_in_each_packed_sequence_anew(client, codec):
    q, k, v = heads(4)[0], heads(2)[0], heads(2)[0] + 1
    tensors = {"q": q, "k": k, "v": v, "cu_seqlens": ENDS}
    message = Message(tensors, params(**ASKED, q_offset=6, k_offset=5, k_stride=2))
    answer = await answered(client, codec, "/v1/attention", message)
    counted = torch.tensor([0, 1, 0, 1, 2])
    assert_equal(answer, expected(q, k, v, 6 + counted, 5 + 2 * counted, ends=ENDS))


async def test_no_tokens_have_no_last_place(client, codec):
    empty = {name: torch.empty(1, 0, 2, 8) for name in "qkv"}
    text = params(q_offset=2**62 - 1, k_stride=2**62 - 1)
    answer = await answered(client, codec, "/v1/attention", Message(empty, text))
    assert answer.tensors["out"].shape == (1, 0, 2, 8)


async def test_an_index_as_a_person_writes_it(client):
    token = [[[1.0, 2.0]], [[3.0, 4.0]]]
    body = {"q": token, "k": token, "v": token, "rope": None, "return_lse": True}
    answer = (await client.post("/v1/attention", json=body | {"q_index": [1, 0]})).json()
    assert answer["out"]["data"][2:] == [1, 2], "sees the key at 0 alone"

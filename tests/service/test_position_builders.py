"""`/v1/positions` builds positions as the library does, or names the argument that is wrong."""

import pytest
import torch

import rope_core
from rope_core import Rotate, positions
from service.wire import Message
from tests.service.conftest import every_test_in_one_loop, post
from tests.service.messages import answered, params
from tests.service.rope_cases import TOKENS, case_id, check_refused, heads, library_rope, message

pytestmark = every_test_in_one_loop


@pytest.fixture
def client(shared_client):
    return shared_client


BUILT = [
    ("grid_positions", {"sizes": [2, 3], "start": 1}, {}),
    ("flux_positions", {"sizes": [2, 2], "text_tokens": 3}, {}),
    ("interpolated_positions", {"length": 4, "factor": 2}, {}),
    ("centred_positions", {"sizes": [[1, 2, 2], [1, 4, 2]], "text_tokens": 2}, {}),
    ("crop_positions", {"sizes": [2, 3, 4], "crop_start": [0, 0], "crop_stop": [3, 4]}, {}),
    ("self_extend_positions", {"length": 6, "window": 2, "group": 2}, {}),
    ("streaming_positions", {"length": 9, "sink_tokens": 2, "recent_tokens": 3}, {}),
    ("packed_positions", {}, {"cu_seqlens": [0, 2, 5]}),
    ("mask_positions", {"padding": 1}, {"attention_mask": [[0, 1, 1], [1, 1, 0]]}),
    (
        "mrope_index",
        {"family": "qwen2_5_vl"},
        {
            "token_types": [0, 2, 2, 2, 2, 0],
            "video_grid_thw": [[1, 4, 4]],
            "second_per_grid_ts": torch.tensor([1.0]),
        },
    ),
    ("token_types", {"image_token_id": 7}, {"input_ids": [[1, 7], [7, 2]]}),
    ("atom_positions", {}, {"xyz": torch.rand(4, 3), "uid": [1, 1, 2, 2]}),
]


@pytest.mark.parametrize(("name", "arguments", "tensors"), BUILT, ids=[each[0] for each in BUILT])
async def test_builders_build_as_the_library_does(client, codec, name, arguments, tensors):
    tensors = {n: torch.as_tensor(each) for n, each in tensors.items()}
    body = Message(tensors, params(builder=name, arguments=arguments))
    answer = await answered(client, codec, "/v1/positions", body)
    built = positions.BUILDERS[name].function(**arguments, **tensors)
    expected = {"positions": built} if isinstance(built, torch.Tensor) else vars(built)
    assert answer.tensors.keys() == expected.keys()
    for key, tensor in expected.items():
        assert answer.tensors[key].dtype == tensor.dtype
        assert torch.equal(answer.tensors[key], tensor)


async def test_tensors_of_builders_are_integers_where_a_person_writes_them(client):
    for name, arguments, tensors in BUILT:
        plain = {n: torch.as_tensor(each).tolist() for n, each in tensors.items()}
        body = {"builder": name, "arguments": arguments, **plain}
        answer = await client.post("/v1/positions", json=body)
        assert answer.status_code == 200, answer.text


async def test_positions_that_were_built_rotate(client, codec):
    body = message(builder="grid_positions", arguments={"sizes": [1, TOKENS]})
    built = await answered(client, codec, "/v1/positions", body)
    rope = {"axes": "axial", "axes_dim": [8, 8]}
    tensors = {"q": heads(2), **built.tensors}
    answer = await answered(client, codec, "/v1/rotate", Message(tensors, params(rope=rope)))
    expected = rope_core.rotate(
        Rotate(heads(2), None, library_rope(rope), built.tensors["positions"])
    )
    assert torch.equal(answer.tensors["q"], expected.q)


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ({}, ["builder must be given"]),
        ({"builder": "grid"}, ["builder must be", "grid"]),
        ({"builder": "grid_positions"}, ["sizes must be given for grid_positions"]),
        ({"builder": "packed_positions"}, ["missing required tensor 'cu_seqlens'"]),
        (
            {"builder": "grid_positions", "arguments": {"sizes": [2], "size": 3}},
            ["unknown argument size", "sizes, start"],
        ),
        (
            {"builder": "grid_positions", "arguments": {"sizes": [2]}, "uid": [1]},
            ["unknown argument uid"],
        ),
        (
            {"builder": "packed_positions", "arguments": {"cu_seqlens": [0, 2]}},
            ["cu_seqlens must be a tensor of the message, not one of arguments", "[0, 2]"],
        ),
        (
            {"builder": "grid_positions", "arguments": {"sizes": "23"}},
            ["arguments.sizes must be a list", "23"],
        ),
        (
            {"builder": "grid_positions", "arguments": {"sizes": [2, True]}},
            ["arguments.sizes.1", "integer", "True"],
        ),
        (
            {"builder": "grid_positions", "arguments": {"sizes": [2, 0]}},
            ["sizes must be an integer from 1", "got 0"],
        ),
        (
            {"builder": "grid_positions", "arguments": {"sizes": [2**13, 2**13]}},
            ["sizes must be of at most 16777216 positions"],
        ),
        (
            {"builder": "mrope_index", "token_types": [0, 1], "arguments": {"family": "qwen9"}},
            ["family must be one of", "qwen2_vl", "qwen9"],
        ),
        (
            {"builder": "mrope_index", "token_types": [1, 1], "image_grid_thw": [[1, 4, 4]]},
            ["token_types must be of 4 image tokens", "got 2"],
        ),
        (
            {"builder": "mrope_index", "token_types": [0.5]},
            ["token_types must be made of integers"],
        ),
        ({"builder": "grid_positions", "arguments": None}, ["arguments must be an object", "null"]),
    ],
    ids=case_id,
)
async def test_bad_arguments_of_builders_are_named(client, body, names):
    check_refused(await client.post("/v1/positions", json=body), *names)


async def test_positions_that_would_be_too_large_an_answer(client, codec):
    body = message(builder="offset_positions", arguments={"length": 2**20})
    refusal = await post(client, codec, "/v1/positions", body)
    assert (refusal.status_code, refusal.json()["code"]) == (413, "too_large")

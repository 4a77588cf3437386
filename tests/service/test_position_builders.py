"""`/v1/positions`: what each builder makes, and errors that name the argument."""

import pytest
import torch

import rope_core
from rope_core import Rotate
from service.wire import Message, json_codec
from tests.core import oracle
from tests.service import rope_formulas
from tests.service.conftest import every_test_in_one_loop, post
from tests.service.messages import answered, params, read_answer
from tests.service.rope_cases import TOKENS, case_id, check_refused, heads, library_rope, message

pytestmark = every_test_in_one_loop


@pytest.fixture
def client(shared_client):
    return shared_client


XYZ = [[0.5, -1.0, 2.0], [3.0, 0.25, -4.0]]
CASES = [  # builder, arguments, tensors, what it makes
    (
        *("grid_positions", {"sizes": [2, 3], "start": 1}, {}),
        {"positions": [[1, 1, 1, 2, 2, 2], [1, 2, 3, 1, 2, 3]]},
    ),
    (
        *("flux_positions", {"sizes": [2, 2], "text_tokens": 3}, {}),
        {"positions": [[0] * 7, [0, 0, 0, 0, 0, 1, 1], [0, 0, 0, 0, 1, 0, 1]]},
    ),
    ("interpolated_positions", {"length": 4, "factor": 2}, {}, {"positions": [0.0, 0.5, 1.0, 1.5]}),
    (
        *("centred_positions", {"sizes": [[1, 2, 2], [1, 4, 2]], "text_tokens": 2}, {}),
        {
            "positions": [
                [0] * 4 + [1] * 8 + [2, 3],
                [-1, -1, 0, 0, -2, -2, -1, -1, 0, 0, 1, 1, 2, 3],
                [-1, 0] * 6 + [2, 3],
            ]
        },
    ),
    (
        *("crop_positions", {"sizes": [2, 1, 2], "crop_start": [0, 0], "crop_stop": [3, 4]}, {}),
        {"positions": [[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0], [0.0, 2.0, 0.0, 2.0]]},
    ),
    (
        *("self_extend_positions", {"length": 6, "window": 2, "group": 2}, {}),
        {
            "q_near": [0, 1, 2, 3, 4, 5],
            "k_near": [0, 1, 2, 3, 4, 5],
            "q_far": [1, 1, 2, 2, 3, 3],
            "k_far": [0, 0, 1, 1, 2, 2],
        },
    ),
    (
        *("streaming_positions", {"length": 9, "sink_tokens": 2, "recent_tokens": 3}, {}),
        {"kept": [0, 1, 6, 7, 8], "positions": [0, 1, 2, 3, 4], "delta": [0, 0, -4, -4, -4]},
    ),
    (
        *("dual_chunk_positions", {"length": 8, "chunk_size": 4, "local_size": 1}, {}),
        {
            "q_intra": [0, 1, 2, 0, 1, 2, 0, 1],
            "q_succ": [3, 4, 4, 3, 4, 4, 3, 4],
            "q_inter": [4] * 8,
            "k": [0, 1, 2, 0, 1, 2, 0, 1],
            "q_chunk": [0, 0, 0, 1, 1, 1, 2, 2],
            "k_chunk": [0, 0, 0, 1, 1, 1, 2, 2],
            "attention_factor": 1.0,
        },
    ),
    (
        *("decode_positions", {"length": 8, "axes": 1}),
        {"rope_delta": [-2, 0], "attention_mask": [[0] + [1] * 7, [0] * 3 + [1] * 5]},
        {"positions": [[[5], [5]]]},
    ),
    (
        *("decode_positions", {"axes": 1}, {"rope_delta": [-2, 0], "lengths": [7, 5]}),
        {"positions": [[[5], [5]]]},
    ),
    ("offset_positions", {"length": 2}, {"starts": [7, 5]}, {"positions": [[7, 8], [5, 6]]}),
    ("packed_positions", {}, {"cu_seqlens": [0, 2, 5]}, {"positions": [0, 1, 0, 1, 2]}),
    (
        *("mask_positions", {"padding": 1}, {"attention_mask": [[0, 1, 1], [1, 1, 0]]}),
        {"positions": [[1, 0, 1], [0, 1, 1]]},
    ),
    (
        "mrope_index",
        {"family": "qwen2_5_vl"},
        {
            "token_types": [0, 2, 2, 2, 2, 0],
            "video_grid_thw": [[1, 4, 4]],
            "second_per_grid_ts": [1.0],
        },
        {
            "positions": [[0, 1, 1, 1, 1, 3], [0, 1, 1, 2, 2, 3], [0, 1, 2, 1, 2, 3]],
            "rope_delta": -2,
        },
    ),
    (
        *("mrope_index", {}),
        {
            "token_types": [0, 1, 0, 1, 0],
            "image_grid_thw": [[1, 2, 2]] * 2,
            "cu_seqlens": [0, 3, 5],
        },
        {"positions": [[0, 1, 2, 0, 1]] * 3, "rope_delta": [0, 0]},
    ),
    (
        *("token_types", {"image_token_id": 7}, {"input_ids": [[1, 7], [7, 2]]}),
        {"positions": [[0, 1], [1, 0]]},
    ),
    (
        *("atom_positions", {}, {"xyz": XYZ, "uid": [1, 2]}),
        {"positions": [[0.5, 3.0], [-1.0, 0.25], [2.0, -4.0], [1.0, 2.0]]},
    ),
]


@pytest.mark.parametrize(
    ("builder", "arguments", "lists", "expected"), CASES, ids=[case[0] for case in CASES]
)
async def test_positions_of_each_builder(client, codec, builder, arguments, lists, expected):
    """Expected values are worked out by hand; an integer stands for int64, another for float32."""
    tensors = {name: torch.tensor(values) for name, values in lists.items()}
    message = Message(tensors, params(builder=builder, arguments=arguments))
    answer = await answered(client, codec, "/v1/positions", message, as_base64=True)
    check_tensors(answer, expected)


@pytest.mark.parametrize(
    ("builder", "arguments", "lists", "expected"), CASES, ids=[case[0] for case in CASES]
)
async def test_nested_lists_have_the_dtypes_that_a_builder_takes(
    client, builder, arguments, lists, expected
):
    body = {"builder": builder, "arguments": arguments, **lists}
    response = await client.post("/v1/positions", json=body)
    assert response.status_code == 200, response.text
    check_tensors(read_answer(json_codec, response.content), expected)


def check_tensors(answer, expected):
    assert answer.tensors.keys() == expected.keys()
    for name, values in expected.items():
        assert answer.tensors[name].tolist() == values
        assert answer.tensors[name].dtype == torch.tensor(values).dtype


async def test_built_positions_rotate(client, codec):
    request = message(builder="grid_positions", arguments={"sizes": [1, TOKENS]})
    built = await answered(client, codec, "/v1/positions", request)
    rope = {"axes": "axial", "axes_dim": [8, 8]}
    tensors = {"q": heads(2), **built.tensors}
    answer = await answered(client, codec, "/v1/rotate", Message(tensors, params(rope=rope)))
    expected = rope_core.rotate(
        Rotate(heads(2), None, library_rope(rope), built.tensors["positions"])
    )
    assert torch.equal(answer.tensors["q"], expected.q)
    of_columns = [4, 5, 6, 7, 12, 13, 14, 15]  # all rows are at 0, so the others stay
    columns = rope_formulas.rotate(heads(2)[..., of_columns], torch.arange(TOKENS), {})
    rotated = heads(2).double()
    rotated[..., of_columns] = columns
    assert oracle.off(answer.tensors["q"], rotated) < oracle.ROTATE_BAR[torch.float32]


@pytest.mark.parametrize(
    ("body", "words"),
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
            {"builder": "decode_positions", "rope_delta": [-2, 0], "arguments": {"length": 8}},
            ["length must be given with attention_mask, or lengths", "the 2 rows", "got 8 alone"],
        ),
        (
            {"builder": "mrope_index", "token_types": [0.5]},
            ["token_types must be made of integers"],
        ),
        ({"builder": "grid_positions", "arguments": None}, ["arguments must be an object", "null"]),
    ],
    ids=case_id,
)
async def test_bad_arguments_of_a_builder_are_named(client, body, words):
    check_refused(await client.post("/v1/positions", json=body), *words)


async def test_positions_over_the_limit_of_an_answer_are_refused(client, codec):
    request = message(builder="offset_positions", arguments={"length": 2**20})
    refusal = await post(client, codec, "/v1/positions", request)
    assert (refusal.status_code, refusal.json()["code"]) == (413, "too_large")

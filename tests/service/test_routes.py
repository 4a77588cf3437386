"""Every route gives the outputs of the library, in every codec."""

import pytest
import torch

import rope_core.reference
from rope_core import AttentionConfig, RopeConfig
from service import __version__
from service.wire import CODECS, Message
from tests.service.conftest import post
from tests.service.messages import answered, params

ROPE = RopeConfig.of(8, rotary_dim=4, theta=500.0, layout="interleaved")
ROPE_PARAM = {"theta": 500, "rotary_dim": 4, "layout": "interleaved"}


def heads(num_heads: int, *, tokens: int = 5, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(num_heads)
    return torch.randn(2, tokens, num_heads, 8, generator=generator).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
async def test_rotate(client, codec, dtype):
    q, k, positions = heads(4, dtype=dtype), heads(2, dtype=dtype), torch.tensor([9, 3, 4, 5, -1])
    message = Message({"q": q, "k": k, "positions": positions}, params(rope=ROPE_PARAM))

    answer = await answered(client, codec, "/v1/rotate", message, as_base64=True)

    expected = rope_core.rotate(rope_core.Rotate(q, k, ROPE, positions))
    assert torch.equal(answer.tensors["q"], expected.q)
    assert torch.equal(answer.tensors["k"], expected.k)


async def test_rotate_back(client, codec):
    q, rope = heads(4), {"rope": ROPE_PARAM}
    there = await answered(client, codec, "/v1/rotate", Message({"q": q}, params(**rope)))
    back = await answered(
        client, codec, "/v1/rotate", Message(dict(there.tensors), params(**rope, inverse=True))
    )
    assert set(back.tensors) == {"q"}
    torch.testing.assert_close(back.tensors["q"], q)


async def test_rotate_packed_sequences(client, codec):
    k, cu_seqlens = heads(2)[0], torch.tensor([0, 2, 2, 5], dtype=torch.int32)
    tensors = {"k": k, "cu_seqlens": cu_seqlens}
    answer = await answered(client, codec, "/v1/rotate", Message(tensors))
    expected = rope_core.rotate(
        rope_core.Rotate(None, k, RopeConfig.of(8), torch.tensor([0, 1, 0, 1, 2]))
    )
    assert torch.equal(answer.tensors["k"], expected.k)
    exact = rope_core.reference.rotate_complex(k, torch.tensor([0, 1, 0, 1, 2]), RopeConfig.of(8))
    torch.testing.assert_close(answer.tensors["k"], exact.float())


async def test_attention(client, codec):
    q, k, v = heads(4), heads(2), heads(2) + 1
    options = {"window": 3, "softcap": 5.0, "scale": 0.3, "return_lse": True, "rope": ROPE_PARAM}
    answer = await answered(
        client, codec, "/v1/attention", Message({"q": q, "k": k, "v": v}, params(**options))
    )
    config = AttentionConfig(window=3, softcap=5.0, scale=0.3)
    expected = rope_core.attend(rope_core.Attend(q, k, v, ROPE, config, return_lse=True))
    assert torch.equal(answer.tensors["out"], expected.out)
    assert torch.equal(answer.tensors["lse"], expected.lse)
    rotated = [rope_core.reference.rotate_complex(x, torch.arange(5), ROPE) for x in (q, k)]
    out, lse = rope_core.reference.attention(*rotated, v, config)
    torch.testing.assert_close(answer.tensors["out"], out.float())
    torch.testing.assert_close(answer.tensors["lse"], lse.float())


@pytest.mark.parametrize("kind", [torch.bool, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("base64", [False, True])
async def test_attention_with_a_mask_and_sinks(client, codec, kind, base64):
    q, k, sinks = heads(4), heads(2, tokens=7), torch.tensor([0.5, -1, 3, 0])
    seen = torch.rand(2, 1, 5, 7, generator=torch.Generator().manual_seed(0)) < 0.7
    mask = seen if kind == torch.bool else seen.to(kind)
    if base64 and kind != torch.bool:
        mask = mask.masked_fill(~seen, -torch.inf)
    tensors = {"q": q, "k": k, "v": k, "sinks": sinks, "mask": mask}
    options = params(rope=None, return_lse=True)
    answer = await answered(client, codec, "/v1/attention", Message(tensors, options), base64)
    out, lse = rope_core.reference.attention(q, k, k, AttentionConfig(), sinks, mask)
    torch.testing.assert_close(answer.tensors["out"], out.float())
    torch.testing.assert_close(answer.tensors["lse"], lse.float())


@pytest.mark.parametrize(
    "fields",
    [{"chunk": 2}, {"causal": False, "window": 2, "window_ahead": 1}, {"chunk": 3, "window": 2}],
    ids=str,
)
async def test_attention_in_chunks_and_in_windows_to_both_sides(client, codec, fields):
    q, k = heads(4), heads(2)
    message = Message({"q": q, "k": k, "v": k}, params(rope=None, **fields))
    answer = await answered(client, codec, "/v1/attention", message)
    out, _ = rope_core.reference.attention(q, k, k, AttentionConfig(**fields))
    torch.testing.assert_close(answer.tensors["out"], out.float())


async def test_masks_and_sinks_as_json_lists(client):
    token = [[[1.0, 2.0]], [[3.0, 4.0]]]
    body = {"q": token, "k": token, "v": token, "rope": None, "return_lse": True}
    for mask in (
        [[True, False], [False, False]],
        {"shape": [2, 1], "dtype": "bool", "data": [True, False]},
    ):
        request = body | {"mask": mask, "sinks": [-1]}
        answer = (await client.post("/v1/attention", json=request)).json()
        assert answer["out"]["data"][2:] == [0, 0], "sees no key"
        assert answer["lse"]["data"][1] == -1, "but the sink"
    answer = (await client.post("/v1/attention", json=body | {"mask": [[-1e30, 0]]})).json()
    assert answer["out"]["data"] == [1, 2, 3, 4]
    assert answer["lse"]["data"][0] < -1e29


async def test_attention_with_positions_of_q_and_k_and_without_rotation(client, codec):
    q, k = heads(4, tokens=1), heads(2)
    apart = {"q": q, "k": k, "v": k, "q_positions": torch.tensor([4])}
    rotated = await answered(client, codec, "/v1/attention", Message(apart))
    expected = rope_core.attend(
        rope_core.Attend(q, k, k, RopeConfig.of(8), q_positions=torch.tensor([4]))
    )
    assert torch.equal(rotated.tensors["out"], expected.out)
    assert "lse" not in rotated.tensors
    plain = await answered(client, codec, "/v1/attention", Message(apart, params(rope=None)))
    expected = rope_core.attend(rope_core.Attend(q, k, k, None))
    assert torch.equal(plain.tensors["out"], expected.out)


async def test_attention_over_ragged_sequences(client, codec):
    q, k = heads(4)[0], heads(2)[0]
    cu = torch.tensor([0, 3, 5])
    answer = await answered(
        client, codec, "/v1/attention", Message({"q": q, "k": k, "v": k, "cu_seqlens": cu})
    )
    parts = [
        rope_core.attend(rope_core.Attend(q[a:b], k[a:b], k[a:b], RopeConfig.of(8))).out
        for a, b in ((0, 3), (3, 5))
    ]
    assert torch.equal(answer.tensors["out"], torch.cat(parts))
    exact = []
    for rows in (slice(0, 3), slice(3, 5)):
        positions = torch.arange(rows.stop - rows.start)
        rotated = [
            rope_core.reference.rotate_complex(x[rows], positions, RopeConfig.of(8)) for x in (q, k)
        ]
        exact.append(rope_core.reference.attention(*rotated, k[rows], AttentionConfig())[0])
    torch.testing.assert_close(answer.tensors["out"], torch.cat(exact).float())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
async def test_attention_answers_in_float32_on_request(client, codec, dtype):
    q, k, v = heads(4, dtype=dtype), heads(2, dtype=dtype), heads(2, dtype=dtype) + 1
    message = Message({"q": q, "k": k, "v": v}, params(out_dtype="float32"))
    answer = await answered(client, codec, "/v1/attention", message)
    call = rope_core.Attend(q, k, v, RopeConfig.of(8), out_dtype=torch.float32)
    assert torch.equal(answer.tensors["out"], rope_core.attend(call).out)
    assert answer.tensors["out"].dtype == torch.float32


async def test_queries_that_see_nothing(client, codec):
    q, k = heads(4), heads(2)
    after = params(return_lse=True, q_offset=0, k_offset=100)
    answer = await answered(
        client, codec, "/v1/attention", Message({"q": q, "k": k, "v": k}, after)
    )
    assert not answer.tensors["out"].any()
    assert (answer.tensors["lse"] == -torch.inf).all()


async def test_cos_sin(client, codec):
    positions = torch.tensor([[0, 1], [70_000, -2]])
    answer = await answered(
        client,
        codec,
        "/v1/cos_sin",
        Message({"positions": positions}, params(rope={"head_dim": 8})),
    )
    angles = positions.double()[..., None] * 10_000.0 ** -(torch.arange(0, 8, 2).double() / 8)
    torch.testing.assert_close(answer.tensors["cos"], angles.cos().float(), rtol=0, atol=1e-7)
    torch.testing.assert_close(answer.tensors["sin"], angles.sin().float(), rtol=0, atol=1e-7)
    assert answer.params.values == {"attention_scaling": 1.0}


@pytest.mark.parametrize("delta", [torch.tensor(-3), torch.tensor([1, 2, 3, 4, 5])], ids=str)
async def test_shift(client, codec, delta):
    k = heads(2)
    rotated = rope_core.rotate(rope_core.Rotate(None, k, ROPE)).k
    answer = await answered(
        client,
        codec,
        "/v1/shift",
        Message({"k": rotated, "delta": delta}, params(rope=ROPE_PARAM)),
    )
    moved = rope_core.rotate(rope_core.Rotate(None, k, ROPE, torch.arange(5) + delta)).k
    torch.testing.assert_close(answer.tensors["k"], moved)


async def test_merge_of_two_halves_of_the_keys(client, codec):
    q, k, v = heads(4), heads(2), heads(2) + 1
    plain = AttentionConfig(causal=False)
    halves = [
        rope_core.attend(rope_core.Attend(q, k[:, s], v[:, s], None, plain, return_lse=True))
        for s in (slice(0, 2), slice(2, 5))
    ]
    tensors = {n: torch.stack([getattr(half, n) for half in halves]) for n in ("out", "lse")}
    answer = await answered(client, codec, "/v1/merge", Message(tensors))
    whole = rope_core.attend(rope_core.Attend(q, k, v, None, plain, return_lse=True))
    torch.testing.assert_close(answer.tensors["out"], whole.out)
    torch.testing.assert_close(answer.tensors["lse"], whole.lse)


@pytest.mark.parametrize("path", ["/v1/rotate", "/v1/attention"])
async def test_requests_without_tokens(client, codec, path):
    names = "qk" if path == "/v1/rotate" else "qkv"
    empty = {name: torch.empty(1, 0, 2, 8) for name in names}
    answer = await answered(client, codec, path, Message(empty))
    assert all(tensor.shape == (1, 0, 2, 8) for tensor in answer.tensors.values())


async def test_accept_chooses_the_codec_of_the_answer(client, codec):
    for other in CODECS:
        message = Message({"q": heads(2)})
        response = await post(client, codec, "/v1/rotate", message, accept=other.media_type)
        assert response.headers["content-type"] == other.media_type
        assert other.decode(response.content).message.tensors["q"].shape == (2, 5, 2, 8)


async def test_headers_have_the_id_and_the_times_of_a_request(client, codec):
    message = Message({"q": heads(2)})
    named = await post(client, codec, "/v1/rotate", message, x_request_id="my-id.1")
    assert named.headers["x-request-id"] == "my-id.1"
    forged = await post(client, codec, "/v1/rotate", message, x_request_id="no\tname")
    assert forged.headers["x-request-id"].isalnum()
    *timed, backend = named.headers["server-timing"].split(", ")
    assert backend == 'backend;desc="eager"'
    times = dict(part.split(";dur=") for part in timed)
    assert set(times) == {"queue", "copy", "compute"}
    assert all(float(ms) >= 0 for ms in times.values())


async def test_the_start_page_leads_to_all_parts_of_the_service(client):
    answer = await client.get("/")
    index = answer.json()
    assert (answer.status_code, index["name"], index["version"]) == (
        200,
        "rope-service",
        __version__,
    )
    assert {"/v1/rotate", "/v1/attention", "/v1/presets"} <= {*index["v1"]}
    for path in index["v1"]:
        assert (await client.get(path)).status_code in (200, 405), path
    for name in ("docs", "openapi", "v2", "health", "metrics"):
        assert (await client.get(index[name])).status_code == 200, name
    assert index["readiness"] == "/readyz"

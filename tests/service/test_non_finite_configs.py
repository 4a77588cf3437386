"""`NaN` and `Infinity`, as Python's json writes them, within a model's config on every route."""

import json
import math
import socket
from urllib.parse import quote

import orjson
import pytest
import torch

from service.wire import config_json, json_codec, safetensors_codec
from service.wire.message import Message, params_key
from tests.service.conftest import every_test_in_one_loop
from tests.service.messages import params, read_answer
from tests.service.oip.encodings import ENCODINGS, InferCall, Refused, all_encodings

pytestmark = every_test_in_one_loop

LLAMA = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4}
UNREAD = {
    "time_step_limit": [0.0, math.inf],
    "nested": {"config": {"lowest": [-math.inf, {"none": math.nan}]}, "text": 'a "config": {NaN'},
    "mark": "\N{GRINNING FACE}\u2028",
}
"""Members that no rope reads."""
AS_IT_IS = {**UNREAD, **LLAMA}

DYNAMIC = {"rope_scaling": {"rope_type": "dynamic", "factor": 2}}
COUNTING = [
    ("rope_theta", LLAMA | {"rope_theta": math.inf}),
    ("rope_theta", LLAMA | {"rope_theta": math.nan}),
    ("factor", LLAMA | {"rope_scaling": {"rope_type": "linear", "factor": math.nan}}),
    ("max_position_embeddings", LLAMA | DYNAMIC | {"max_position_embeddings": -math.inf}),
    ("llama_4_scaling_beta", LLAMA | {"rope_parameters": {"llama_4_scaling_beta": math.inf}}),
]

HEADS = torch.randn(1, 3, 4, 16, generator=torch.Generator().manual_seed(0))
AT = torch.tensor([[5, 1, 9]])
REQUESTS = {
    "/v1/rotate": {"q": HEADS, "positions": AT},
    "/v1/attention": {"q": HEADS, "k": HEADS, "v": HEADS},
    "/v1/cos_sin": {"positions": AT[0]},
    "/v1/shift": {"k": HEADS, "delta": AT, "positions": AT},
    "/v1/resolve": {},
}


@pytest.fixture
def client(shared_client):
    return shared_client


def write(codec, tensors, values):
    """Return a body whose parameters are as Python's json writes them."""
    if codec is safetensors_codec:
        return b"".join(codec.encode(Message(tensors, params(**values))))
    (tensor_json,) = codec.encode(Message(tensors))
    return json.dumps(json.loads(tensor_json) | values, indent=1, ensure_ascii=False).encode()


async def answer(client, codec, path, values, tensors=None):
    body = write(codec, REQUESTS[path] if tensors is None else tensors, values)
    return await client.post(path, content=body, headers={"content-type": codec.media_type})


def ropes_of(path, config):
    rope = {"config": config}
    return {"rope": rope, "to": rope} if path == "/v1/shift" else {"rope": rope}


@pytest.mark.parametrize("path", REQUESTS)
async def test_members_that_do_not_count_do_not_matter(client, codec, path):
    expected = await answer(client, codec, path, ropes_of(path, LLAMA))
    actual = await answer(client, codec, path, ropes_of(path, AS_IT_IS))
    assert (actual.status_code, expected.status_code) == (200, 200), actual.text
    tensors, values = (read_answer(codec, actual.content), read_answer(codec, expected.content))
    for name, tensor in values.tensors.items():
        assert torch.equal(tensors.tensors[name], tensor)
    if path == "/v1/resolve":
        known = tensors.params.values
        assert set(known["keys_ignored"]) - set(values.params.values["keys_ignored"]) == {*UNREAD}
        text = json.dumps(known, allow_nan=False)  # an answer is JSON
        assert "Infinity" not in text


@pytest.mark.parametrize(("key", "config"), COUNTING)
@pytest.mark.parametrize("path", ["/v1/rotate", "/v1/shift", "/v1/resolve"])
async def test_a_member_that_counts_is_named(client, codec, path, key, config):
    response = await answer(client, codec, path, ropes_of(path, config))
    problem = json.loads(response.content, parse_constant=pytest.fail)
    assert (response.status_code, problem["code"]) == (422, "config")
    assert key in problem["detail"]


@pytest.mark.parametrize("form", ["header", "rope", "rope.config", "rope.config with a mark"])
async def test_a_config_outside_of_the_body(client, form):
    async def ask(config):
        text = json.dumps(config)
        body, query, headers = {}, "", {}
        if form == "header":
            headers = {"x-rope-params": json.dumps({"rope": {"config": config}})}
        elif form == "rope":
            query = "?rope=" + quote(json.dumps({"config": config}))
        else:
            query = "?rope.config=" + quote("\ufeff" * form.endswith("mark") + text)
        return await client.post("/v1/resolve" + query, json=body, headers=headers)

    expected, actual = await ask(LLAMA), await ask(AS_IT_IS)
    assert actual.status_code == expected.status_code == 200, actual.text
    assert actual.json()["inv_freq"] == expected.json()["inv_freq"]
    for key, config in COUNTING:
        response = await ask(config)
        assert response.status_code == 422
        assert key in response.json()["detail"]


@pytest.mark.parametrize("encoding", ENCODINGS)
async def test_a_config_in_parameters_of_the_open_inference_protocol(encoding):
    async with all_encodings() as encodings:
        infer = encodings[encoding].infer

        async def ask(values):
            return await infer(InferCall("rope", {"q": HEADS, "positions": AT}, values))

        expected = (await ask({"rope": json.dumps({"config": LLAMA})})).outputs["q"]
        text = json.dumps(AS_IT_IS)
        for values in (
            {"rope": json.dumps({"config": AS_IT_IS})},
            {"config": text},
            {"config": f"\ufeff {text}\n"},
        ):
            for _ in range(2):
                assert torch.equal((await ask(values)).outputs["q"], expected)
        for key, config in COUNTING:
            for name, value in (("rope", {"config": config}), ("config", config)):
                with pytest.raises(Refused, match=key):
                    await ask({name: json.dumps(value)})
        for bad in ({"rope": '{"theta": NaN}'}, {"mask": "[NaN]"}, {"config": text + "1"}):
            with pytest.raises(Refused):
                await ask(bad)


OUTSIDE = {
    "a tensor": '{"rope": {"config": {"a": 1}}, "q": [[[NaN, 1.0]]]}',
    "data": '{"q": {"shape": [1], "dtype": "float32", "data": [Infinity]}}',
    "positions": '{"positions": [-Infinity]}',
    "a rope": '{"rope": {"theta": Infinity}}',
    "another member of a rope": '{"rope": {"config": {"a": 1}, "length": NaN}}',
    "the body": '{"config": {"a": NaN}}',
    "another name": '{"base": {"config": {"a": NaN}}}',
    "a config in a list": '{"rope": [{"config": {"a": NaN}}]}',
    "a config deeper": '{"rope": {"rope": {"config": {"a": NaN}}}}',
    "nothing else": "NaN",
    "another spelling": '{"rope": {"config": {"a": nan}}}',
    "text": '{"rope": "\\"config\\": {\\"a\\": NaN}", "q": [1,]}',
}


@pytest.mark.parametrize("body", OUTSIDE.values(), ids=OUTSIDE)
async def test_elsewhere_they_are_refused_as_before(client, body):
    with pytest.raises(orjson.JSONDecodeError) as error:
        orjson.loads(body)
    hint = "; JSON has no NaN and no Infinity: use safetensors" if "nan}" not in body else ""
    response = await client.post(
        "/v1/cos_sin", content=body, headers={"content-type": "application/json"}
    )
    detail = f"the body is not valid JSON: {error.value}{hint}"
    assert (response.status_code, response.json()["detail"]) == (400, detail)


@pytest.mark.parametrize(
    "tail", ['"q": [1, NaN]}', '"q": [1, 2,]}', '"to": {"theta": Infinity}}', '"q": "\\ud800"}']
)
async def test_an_error_behind_such_a_config_has_its_place(client, tail):
    body = '{"rope": {"config": {"a":\n [NaN, "\N{GRINNING FACE}"]}},\n' + tail
    with pytest.raises(orjson.JSONDecodeError) as error:
        orjson.loads(body.replace("[NaN", "[123"))
    response = await client.post(
        "/v1/cos_sin", content=body, headers={"content-type": "application/json"}
    )
    assert response.status_code == 400
    assert f"not valid JSON: {error.value}" in response.json()["detail"]
    hint = "use safetensors" in response.json()["detail"]
    assert hint == ("NaN" in tail or "Infinity" in tail)


@pytest.mark.parametrize(
    ("member", "reason"),
    [
        ('"a": 1e999', "too large a number in a config"),
        (f'"a": {"9" * 5000}', "too large a number in a config"),
        (f'"a": {"9" * 400}', "too large a number in a config"),
        ('"a": "\\ud800"', "half of a surrogate pair in a config"),
        (f'"a": {"[" * 5000}{"]" * 5000}', "a config is nested too deep"),
        (f'"a": {"[" * 250}{"]" * 250}', "parameters are nested too deep"),
        ('"a": [1,]', "Expecting value: line 1 column "),
        ('"a": 1', None),
        ('"a": 18446744073709551616', None),
        ('"a": NaN, "a": 1', None),
    ],
)
async def test_what_else_a_config_may_not_have(client, codec, member, reason):
    text = f'{{"rope": {{"config": {{"b": Infinity, {json.dumps(LLAMA)[1:-1]}, {member}}}}}}}'
    if codec is safetensors_codec:
        header = json.dumps({"__metadata__": {"params": text}}).encode()
        body = len(header).to_bytes(8, "little") + header
    else:
        body = text.encode()
    response = await client.post(
        "/v1/resolve", content=body, headers={"content-type": codec.media_type}
    )
    assert response.status_code == (200 if reason is None else 400), response.text
    if reason is not None:
        assert reason in response.json()["detail"]


async def test_null_and_numbers_and_their_names_are_not_confused(client, codec):
    """What is cached for one config is not taken for another that JSON cannot tell from it."""
    values = [None, math.inf, "Infinity", math.nan, -math.inf, None, math.inf]
    for value in values:
        config = LLAMA | {"rope_theta": value}
        response = await answer(client, codec, "/v1/resolve", ropes_of("/v1/resolve", config))
        assert response.status_code == (200 if value is None else 422)
    keys = {params_key(config_json.loads_config(json.dumps({"a": value}))) for value in values}
    assert keys == {b'{"a":null}', b'{"a":Infinity}', b'{"a":"Infinity"}', b'{"a":NaN}',
                    b'{"a":-Infinity}'}  # fmt: skip


async def test_tensors_beside_such_a_config(client):
    """Long lists of numbers and a config with `NaN` in one body."""
    numbers = torch.randn(1, 40, 4, 64, generator=torch.Generator().manual_seed(1))
    for config in (LLAMA | {"head_dim": 64}, AS_IT_IS | {"head_dim": 64}):
        body = json.dumps({"rope": {"config": config}, "q": numbers.tolist()})
        response = await client.post(
            "/v1/rotate", content=body, headers={"content-type": "application/json"}
        )
        assert response.status_code == 200, response.text
        rotated = json_codec.decode(response.content).message.tensors["q"]
        if config is not AS_IT_IS and "mark" not in config:
            expected = rotated
    assert torch.equal(rotated, expected)


def planned_request(path, config):
    tensors = {"q": HEADS, "positions": AT}
    if path.startswith("/v1"):
        body = write(
            safetensors_codec, tensors, {"rope": {"config": config, "arithmetic": "float64"}}
        )
        fields = f"content-type: {safetensors_codec.media_type}\r\n"
    else:
        rope = json.dumps({"config": config, "arithmetic": "float64"})
        inputs, blobs = [], []
        for name, tensor in tensors.items():
            blobs.append(tensor.numpy().tobytes())
            kind = "FP32" if name == "q" else "INT64"
            size = {"binary_data_size": len(blobs[-1])}
            inputs.append(
                {"name": name, "datatype": kind, "shape": [*tensor.shape], "parameters": size}
            )
        header = {"inputs": inputs, "parameters": {"rope": rope, "binary_data_output": True}}
        text = json.dumps(header).encode()
        body = b"".join([text, *blobs])
        fields = f"inference-header-content-length: {len(text)}\r\n"
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\n{fields}content-length: {len(body)}\r\n\r\n"
    return head.encode() + body


@pytest.mark.parametrize("path", ["/v1/rotate", "/v2/models/rope/infer"])
async def test_planned_requests(server, path):
    """The third request with the same header has a plan."""
    answers = {}
    for name, config in (("plain", LLAMA), ("as it is", AS_IT_IS), ("bad", COUNTING[0][1])):
        request = planned_request(path, config)
        bodies = set()
        with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as channel:
            stream = channel.makefile("rb")
            for _ in range(4):
                channel.sendall(request)
                status = stream.readline().split()[1]
                length = 0
                while (line := stream.readline().strip().lower()) != b"":
                    if line.startswith(b"content-length:"):
                        length = int(line.split()[1])
                bodies.add((status, stream.read(length)))
        (answers[name],) = bodies
    assert answers["plain"][0] == b"200"
    assert answers["as it is"] == answers["plain"]
    assert answers["bad"][0] in (b"422", b"400")
    assert b"rope_theta" in answers["bad"][1]


async def test_no_more_configs_are_read_than_a_text_can_have(monkeypatch):
    reads, read = [], config_json._read_config
    monkeypatch.setattr(config_json, "_read_config", lambda *at: reads.append(at) or read(*at))
    text = b"[" + b'{"config": {"a": 1}},' * 1000 + b"NaN]"
    assert config_json.cut_configs(text) is None
    assert len(reads) == config_json.MAX_READ

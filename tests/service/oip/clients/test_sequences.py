"""Sequences by the sequence API of the clients of tritonclient, after their own examples."""

import httpx
import pytest
import torch

from service.wire import Message, safetensors_codec
from tests.service.access.keys_files import table
from tests.service.oip.clients.conftest import Target
from tests.service.sessions.http_sessions import part, qkv

CONFIG = {"heads": 4, "kv_heads": 2, "head_dim": 8, "theta": 500.0}
SCOPES = 'scopes = ["infer", "sessions", "metrics"]'
NUM_STEPS = 6


def of(tenant):
    """Return headers with the key of a tenant; the clients add to the headers that they get."""
    return {"authorization": f"Bearer key-{tenant}"}


@pytest.fixture(scope="module")
def sequence_target(serve, tmp_path_factory):
    """A service with three tenants, of which one may have no sessions."""
    path = tmp_path_factory.mktemp("keys") / "keys.toml"
    path.write_text(
        table("a", ["key-a"], SCOPES) + table("b", ["key-b"], SCOPES) + table("none", ["key-none"])
    )
    with serve(ROPE_KEYS_FILE=str(path), ROPE_KV_PAGE_TOKENS="4") as started:
        yield Target.of_service(started)


@pytest.fixture
def sequences(connect, sequence_target):
    client = connect(sequence_target)
    yield client
    ids = httpx.get(f"{sequence_target.url}/v1/sessions", headers=of("a")).json()["sessions"]
    for session in ids:
        path = f"{sequence_target.url}/v1/sessions/{session['id']}"
        httpx.delete(path, headers=of("a")).raise_for_status()


def step_of(client, sequence_id, tokens, n, *, last=NUM_STEPS - 1, **kwargs):
    """Return the request that steps token `n`; the first starts the sequence, the last ends it."""
    if n == 0:
        kwargs.setdefault("parameters", CONFIG)
    return client.request(
        "rope_session",
        part(tokens, n, n + 1),
        ["out", "lse"],
        request_id=f"{sequence_id}_{n}",
        sequence_id=sequence_id,
        sequence_start=n == 0,
        sequence_end=n == last,
        **kwargs,
    )


def attended(url, tokens):
    """Return `out` of each token, by a session of `/v1`."""
    config = {**CONFIG, "rope": {"theta": 500.0}}
    config.pop("theta")
    document = httpx.post(f"{url}/v1/sessions", json=config, headers=of("a")).json()
    path = f"{url}/v1/sessions/{document['id']}/step"
    headers = {**of("a"), "content-type": safetensors_codec.media_type}
    outs = []
    for n in range(NUM_STEPS):
        body = b"".join(safetensors_codec.encode(Message(part(tokens, n, n + 1))))
        answer = httpx.post(path, content=body, headers=headers)
        outs.append(safetensors_codec.decode(answer.content).message.tensors["out"])
    return outs


def num_sessions(target):
    return len(httpx.get(f"{target.url}/v1/sessions", headers=of("a")).json()["sessions"])


@pytest.mark.parametrize("ids", [(1000, 1001), ("d4a2-1", "d4a2-2"), (1002, "1002")], ids=str)
def test_sequences_that_interleave(sequences, sequence_target, ids):
    all_tokens = [qkv(NUM_STEPS, seed=seed) for seed in range(2)]
    expected = [attended(sequence_target.url, tokens) for tokens in all_tokens]
    before = num_sessions(sequence_target)
    for n in range(NUM_STEPS):
        for sequence_id, tokens, outs in zip(ids, all_tokens, expected, strict=True):
            answer = sequences.infer(
                **step_request(sequences, sequence_id, tokens, n, headers=of("a"))
            )
            assert answer.header["id"] == f"{sequence_id}_{n}"
            assert torch.equal(answer["out"], outs[n])
            assert answer.header["parameters"]["length"] == n + 1
    assert num_sessions(sequence_target) == before


def step_request(client, *args, **kwargs):
    """Return the arguments of `Client.infer` for `step_of`."""
    request = step_of(client, *args, **kwargs)
    request["model"] = request.pop("model_name")
    request["inputs"] = {each.name(): each for each in request["inputs"]}
    return request


@pytest.mark.parametrize("kind", ["grpc", "grpc.aio"], indirect=True)
def test_a_stream_of_sequences_is_answered_in_order(sequences, sequence_target):
    """All requests are sent before the first answer: a step waits for the START before it."""
    ids = [2000, 2001, "string id"]
    all_tokens = [qkv(NUM_STEPS, seed=seed) for seed in range(3)]
    expected = [attended(sequence_target.url, tokens) for tokens in all_tokens]
    for order in ("one after the other", "interleaved"):
        steps = [(s, n) for s in range(3) for n in range(NUM_STEPS)]
        if order == "interleaved":
            steps.sort(key=lambda step: step[1])
        requests = [step_of(sequences, ids[s], all_tokens[s], n) for s, n in steps]
        answers = sequences.stream(requests, headers=of("a"))
        for (s, n), answer in zip(steps, answers, strict=True):
            assert answer.header["id"] == f"{ids[s]}_{n}"
            assert torch.equal(answer["out"], expected[s][n])


@pytest.mark.parametrize("kind", ["grpc", "grpc.aio"], indirect=True)
def test_a_stream_may_start_an_id_again_after_its_end(sequences):
    tokens = qkv(NUM_STEPS)
    requests = [step_of(sequences, 7, tokens, n) for _ in range(4) for n in range(NUM_STEPS)]
    answers = sequences.stream(requests, headers=of("a"))
    lengths = [answer.header["parameters"]["length"] for answer in answers]
    assert lengths == [*range(1, NUM_STEPS + 1)] * 4


@pytest.mark.parametrize("kind", ["grpc", "grpc.aio"], indirect=True)
def test_a_failed_start_fails_its_steps_and_not_the_stream(sequences):
    tokens = qkv(NUM_STEPS)
    bad = [step_of(sequences, 7, tokens, 0, parameters={**CONFIG, "heads": 3})]
    bad += [step_of(sequences, 7, tokens, n) for n in range(1, 3)]
    good = [step_of(sequences, 8, tokens, n) for n in range(NUM_STEPS)]
    failures = sequences.stream([*bad, *good], headers=of("a"))
    assert "kv_heads" in failures[0].message() or "heads" in failures[0].message()
    for failure in failures[1:3]:
        assert "must specify the START flag" in failure.message()
    assert [answer.header["parameters"]["length"] for answer in failures[3:]] == [1, 2, 3, 4, 5, 6]


def test_two_tenants_have_the_same_id(sequences):
    tokens = qkv(NUM_STEPS)
    for n in range(NUM_STEPS):
        for tenant in "ab":
            answer = sequences.infer(**step_request(sequences, 5, tokens, n, headers=of(tenant)))
            assert answer.header["parameters"]["length"] == n + 1


def test_a_second_start_and_an_unknown_id_are_refused(sequences):
    from tritonclient.utils import InferenceServerException

    tokens = qkv(NUM_STEPS)
    is_grpc = sequences.wire == "grpc"
    sequences.infer(**step_request(sequences, 9, tokens, 0, headers=of("a")))
    with pytest.raises(InferenceServerException) as failure:
        sequences.infer(**step_request(sequences, 9, tokens, 0, headers=of("a")))
    assert failure.value.status() == ("StatusCode.ALREADY_EXISTS" if is_grpc else "400")
    for tenant, sequence_id in (("a", 10), ("b", 9)):
        with pytest.raises(InferenceServerException) as failure:
            sequences.infer(**step_request(sequences, sequence_id, tokens, 1, headers=of(tenant)))
        assert failure.value.status() == ("StatusCode.INVALID_ARGUMENT" if is_grpc else "400")
        assert failure.value.message() == (
            f"inference request for sequence {sequence_id} to model 'rope_session' must specify "
            "the START flag on the first request of the sequence"
        )


def test_a_key_without_the_scope_of_sessions_is_refused(sequences):
    from tritonclient.utils import InferenceServerException

    with pytest.raises(InferenceServerException, match="scope") as failure:
        sequences.infer(**step_request(sequences, 9, qkv(1), 0, headers=of("none")))
    status = failure.value.status()
    assert status == ("StatusCode.PERMISSION_DENIED" if sequences.wire == "grpc" else "403")


def test_the_model_is_described(sequences):
    assert sequences.is_model_ready("rope_session", headers=of("a")) is True
    config = sequences.get_model_config("rope_session", headers=of("a"))
    config = config.get("config", config)
    batching = config["sequence_batching"]
    assert int(batching["max_sequence_idle_microseconds"]) == 300_000_000
    assert batching["oldest"]["max_candidate_sequences"] == 1024
    metadata = sequences.get_model_metadata("rope_session", headers=of("a"))
    assert [tensor["name"] for tensor in metadata["outputs"]] == ["out", "lse"]
    assert "sequence" in sequences.get_server_metadata(headers=of("a"))["extensions"]
    statistics = sequences.get_inference_statistics("rope_session", headers=of("a"))
    assert statistics["model_stats"][0]["name"] == "rope_session"


def test_a_restart_forgets_sequences(serve, connect):
    """Nothing of them is left: they are as unknown."""
    from tritonclient.utils import InferenceServerException

    tokens = qkv(NUM_STEPS)
    for _ in range(2):
        with serve(ROPE_SEQUENCE_IDS="true") as started:
            client = connect(Target.of_service(started))
            with pytest.raises(InferenceServerException, match="START flag"):
                client.infer(**step_request(client, 9, tokens, 1))
            client.infer(**step_request(client, 9, tokens, 0))
            client.infer(**step_request(client, 9, tokens, 1))

"""Model rope_session: KV sessions by sequence ids, in every encoding of the protocol."""

import asyncio
import json
from contextlib import asynccontextmanager

import grpc
import pytest
import torch

from service.oip import sequences
from service.oip.infer.sequence_params import MAX_ID_BYTES
from tests.service.oip.encodings import ENCODINGS, Grpc, InferCall, Refused, serving
from tests.service.sessions.http_sessions import HttpSessions, part, qkv

CONFIG = {"heads": 4, "kv_heads": 2, "head_dim": 8, "theta": 500.0}
"""What `HttpSessions.new` creates, with parameters of this protocol."""

CODE = grpc.StatusCode
START = {"sequence_start": True}
END = {"sequence_end": True}
UNKNOWN = (
    "inference request for sequence {} to model 'rope_session' must specify the START flag on the "
    "first request of the sequence"
)
STATUSES = {
    400: CODE.INVALID_ARGUMENT,
    404: CODE.NOT_FOUND,
    409: CODE.ABORTED,
    410: CODE.NOT_FOUND,
    413: CODE.RESOURCE_EXHAUSTED,
    423: CODE.FAILED_PRECONDITION,
    429: CODE.RESOURCE_EXHAUSTED,
    503: CODE.UNAVAILABLE,
    507: CODE.RESOURCE_EXHAUSTED,
}


class Stepper:
    """Steps sequences in one encoding."""

    def __init__(self, service, encoding):
        self.service = service
        self.encoding = service.encodings[encoding]
        self.registry = service.oip_state.sessions.services.registry

    async def __call__(self, sequence_id, tensors, *flags, outputs=None, **params):
        params = {"sequence_id": sequence_id, **params}
        for flag in flags:
            params |= flag
        return await self.encoding.infer(InferCall("rope_session", tensors, params, outputs))

    @asynccontextmanager
    async def refused(self, status, *words, code=None):
        with pytest.raises(Refused) as refused:
            yield
        over_grpc = isinstance(self.encoding, Grpc)
        assert refused.value.status == ((code or STATUSES[status]) if over_grpc else status)
        for word in words:
            assert word in str(refused.value)


@pytest.fixture
async def service():
    async with serving(sequence_ids=True, kv_bytes=2**24, kv_page_tokens=4) as running:
        yield running


@pytest.fixture(params=ENCODINGS)
async def step(request, service):
    return Stepper(service, request.param)


def lengths(answers):
    return [answer.header["parameters"]["length"] for answer in answers]


async def test_steps_are_those_of_sessions_bit_by_bit(step):
    tokens = qkv(9)
    cuts = [(0, 5), (5, 6), (6, 7), (7, 9)]
    sessions = HttpSessions(step.service.client)
    session_id = await sessions.new()
    for number, (start, stop) in enumerate(cuts):
        tensors = part(tokens, start, stop)
        params = {} if number else {**START, **CONFIG}
        params |= {"expected_length": start, "expected_generation": 0}
        answer = await step(7, tensors, params)
        expected = await sessions.ok(session_id, "step", tensors, return_lse=True)
        assert [*answer.outputs] == ["out", "lse"]
        assert torch.equal(answer.outputs["out"], expected["out"])
        assert torch.equal(answer.outputs["lse"], expected["lse"])
        assert answer.header["parameters"] == {"length": stop, "generation": 0}


async def test_three_sequences_interleave(step):
    """As Triton's example of sequences: each has its own state."""
    ids = [1001, "one", 2**63 - 1]
    tokens = [qkv(4, seed=seed) for seed in range(3)]
    alone = HttpSessions(step.service.client)
    alone_ids = [await alone.new() for _ in ids]
    for n in range(4):
        flags = {**(START | CONFIG if n == 0 else {}), **(END if n == 3 else {})}
        for sequence_id, each, session_id in zip(ids, tokens, alone_ids, strict=True):
            tensors = part(each, n, n + 1)
            answer = await step(sequence_id, tensors, flags, outputs=["out"])
            expected = await alone.ok(session_id, "step", tensors)
            assert torch.equal(answer.outputs["out"], expected["out"])
            assert lengths([answer]) == [n + 1]
    assert len(step.registry.sessions) == len(ids), "those of /v1"
    assert len(step.service.oip_state.sequences) == 0


async def test_ids_are_numbers_of_64_bits_or_texts(step):
    one = qkv(1)
    for sequence_id in (5, "5", "0", "ключ", "x" * MAX_ID_BYTES):
        await step(sequence_id, one, START, CONFIG)
    for sequence_id in (5, "5", "0", "ключ", "x" * MAX_ID_BYTES):
        assert lengths([await step(sequence_id, one)]) == [2]
    for missing in ({"sequence_id": 0}, {"sequence_id": ""}):
        async with step.refused(400, "non-zero or non-empty correlation ID"):
            await step(0, one, missing, START, CONFIG)
    for wrong in (-1, 1.5, True, "x" * (MAX_ID_BYTES + 1)):
        async with step.refused(400, "sequence_id"):
            await step(wrong, one, START, CONFIG)


async def test_a_number_of_more_than_63_bits(service):
    grpc_raw = service.encodings["raw"]
    for params in (START | CONFIG, {}):
        request = grpc_raw.write(InferCall("rope_session", qkv(1), params))
        request.parameters["sequence_id"].uint64_param = 2**64 - 1
        answer = grpc_raw.read(await grpc_raw.ask(request.SerializeToString()))
    assert lengths([answer]) == [2]
    assert lengths([await Stepper(service, "json")(2**64 - 1, qkv(1))]) == [3]


async def test_a_start_of_a_live_sequence_is_refused(step):
    await step(7, qkv(3), START, CONFIG)
    async with step.refused(400, "sequence 7", "exists already", code=CODE.ALREADY_EXISTS):
        await step(7, qkv(1), START, CONFIG)
    assert lengths([await step(7, qkv(1))]) == [4]


async def test_an_unknown_sequence_is_refused_in_the_words_of_triton(step):
    for flags in ({}, END):
        async with step.refused(400, UNKNOWN.format("a b")):
            await step("a b", qkv(1), flags)
    await step(7, qkv(1), START, CONFIG, END)
    async with step.refused(400, UNKNOWN.format(7)):
        await step(7, qkv(1))
    await step(7, qkv(1), START, CONFIG)
    assert lengths([await step(7, qkv(1))]) == [2]
    assert not step.registry.gone["expired"]


async def test_an_end_without_inputs_deletes(step):
    await step(7, qkv(3), START, CONFIG)
    answer = await step(7, {}, END)
    assert answer.outputs == {}
    assert not step.registry.sessions
    async with step.refused(400, "START flag"):
        await step(7, {}, END)


async def test_a_refused_end_leaves_the_sequence(step):
    await step(7, qkv(3), START, CONFIG)
    async with step.refused(409, "[3], not [2]"):
        await step(7, qkv(1), END, expected_length=2)
    async with step.refused(409, "generation"):
        await step(7, qkv(1), END, expected_generation=1)
    async with step.refused(400, "k "):
        await step(7, {**qkv(1), "k": torch.ones(1, 1, 2, 9)}, END)
    assert lengths([await step(7, qkv(1), END)]) == [4]
    assert not step.registry.sessions


async def test_a_repeated_step_is_answered_and_not_done_again(step):
    tokens = qkv(4)
    await step(7, part(tokens, 0, 3), START, CONFIG)
    answers = [await step(7, part(tokens, 3, 4), expected_length=3) for _ in range(2)]
    assert lengths(answers) == [4, 4]
    assert torch.equal(answers[0].outputs["out"], answers[1].outputs["out"])


async def test_the_reason_of_a_lost_session_is_told(step):
    """Until another START: then the id is free."""
    for reason in ("expired", "evicted", "deleted", "device_lost"):
        await step(7, qkv(2), START, CONFIG)
        (session,) = step.registry.sessions
        if reason == "expired":
            session.lease.renewed -= 1e6
        elif reason == "deleted":
            path = f"/v1/sessions/{session.id.text}"
            assert (await step.service.client.delete(path)).status_code == 204
        else:
            step.registry.end(session, reason)
        for _ in range(2):
            async with step.refused(410, f"the session has ended: {reason}"):
                await step(7, qkv(1))
        async with step.refused(410, reason):
            await step(7, {}, END)
        assert not step.registry.sessions
    assert lengths([await step(7, qkv(1), START, CONFIG)]) == [1]


async def test_a_reason_that_is_forgotten_makes_the_sequence_unknown(step):
    await step(7, qkv(2), START, CONFIG)
    step.registry.end(step.registry.sessions[0], "expired")
    step.registry._tombstones._ends.clear()
    async with step.refused(400, "START flag"):
        await step(7, qkv(1))
    assert len(step.service.oip_state.sequences) == 0


async def test_the_table_is_bounded(service, monkeypatch):
    """Live sequences stay; of those that have ended the newest do."""
    step, table = Stepper(service, "binary"), service.oip_state.sequences
    monkeypatch.setattr(sequences, "MAX_ENDED", 8)
    table._max_sequences = 8
    await step("live", qkv(1), START, CONFIG)
    for number in range(1, 41):
        await step(number, qkv(1), START, CONFIG)
        newest = step.registry.sessions[-1]
        step.registry.end(newest, "evicted")
        assert len(table) <= 1 + 8
    assert lengths([await step("live", qkv(1))]) == [2]
    async with step.refused(410, "evicted"):
        await step(40, qkv(1))
    async with step.refused(400, "START flag"):
        await step(1, qkv(1))


async def test_forms_of_a_configuration(step):
    group = {"layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 8, "rope": {"theta": 500.0}}
    forms = {
        "members": {**CONFIG, "layers": 2},
        "object": {**CONFIG, "theta": None, "rope": '{"theta": 500.0}', "layers": 2},
        "groups": {"groups": json.dumps([group])},
        "list of layers": {**CONFIG, "layers": "[0, 1]"},
        "alias": {**CONFIG, "theta": None, "base": 500.0, "layers": 2},
    }
    documents = []
    for name, form in forms.items():
        params = {key: value for key, value in form.items() if value is not None}
        await step(name, qkv(1), START, params, layer=1)
        documents.append(step.registry.sessions[-1].configuration)
    assert all(document == documents[0] for document in documents)
    answers = [await step(name, qkv(1), layer=0) for name in forms]
    assert lengths(answers) == [1] * len(forms)


async def test_dtype_is_that_of_the_inputs_unless_it_is_given(step):
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        answer = await step(str(dtype), qkv(1, dtype=dtype), START, CONFIG)
        assert answer.outputs["out"].dtype == dtype
        assert step.registry.sessions[-1].cache.config.dtype == dtype
    async with step.refused(400, "float16"):
        await step(7, qkv(1), START, CONFIG, dtype="float16")


async def test_attention_preset_and_lease(step):
    await step(1, qkv(1), START, CONFIG, window=3, softcap=5.0, ttl_s=60, name="x", labels='["a"]')
    session = step.registry.sessions[-1]
    attention = session.configuration["groups"][0]["attention"]
    assert (attention["window"], attention["softcap"]) == (3, 5.0)
    assert (session.lease.ttl_s, session.name, session.labels) == (60, "x", ("a",))
    tensors = {name: torch.ones(1, 1, heads, 64) for name, heads in (("q", 9), ("k", 3), ("v", 3))}
    config = {
        "model_type": "llama",
        "num_hidden_layers": 2,
        "hidden_size": 576,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "rope_theta": 1e5,
    }
    await step(2, tensors, START, config=json.dumps(config), layer=1)
    assert len(step.registry.sessions[-1].configuration["groups"][0]["layers"]) == 2


REFUSED_STARTS = [
    ({"thta": 1.0}, "thta"),
    ({"layer": 3}, "layer"),
    ({"heads": 3}, "heads"),
    ({"groups": "[]"}, "groups"),
    ({"groups": "[{"}, "JSON"),
    ({"groups": "[" * 200 + "]" * 200}, ""),
    ({"rope": "null"}, "not null"),
    ({"batch": 2}, "rows"),
    ({"expected_length": 1}, "[0], not [1]"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"name": "taken"}, "taken"),
    ({"max_tokens": 10**9}, "bytes"),
    ({"max_tokens": 2}, "max_tokens"),
]


@pytest.mark.parametrize(("params", "words"), REFUSED_STARTS, ids=str)
async def test_a_refused_start_leaves_no_trace(step, params, words):
    await step("other", qkv(1), START, CONFIG, name="taken")
    with pytest.raises(Refused) as refused:
        await step(7, qkv(3), START, CONFIG | params)
    assert words in str(refused.value)
    assert refused.value.status not in (500, CODE.INTERNAL, CODE.UNKNOWN)
    assert len(step.registry.sessions) == 1
    async with step.refused(400, "START flag"):
        await step(7, qkv(1))
    assert lengths([await step(7, qkv(3), START, CONFIG)]) == [3]


async def test_a_step_cannot_change_the_configuration(step):
    await step(7, qkv(1), START, CONFIG)
    async with step.refused(400, "theta", "the session fixes it"):
        await step(7, qkv(1), theta=500.0)


async def test_session_errors_have_their_codes(step):
    await step(7, qkv(3), START, CONFIG, max_tokens=4)
    async with step.refused(413, "max_tokens"):
        await step(7, qkv(2))
    session = step.registry.sessions[-1]
    step.registry.update(session, {"frozen": True})
    async with step.refused(423, "frozen"):
        await step(7, qkv(1))
    async with step.refused(413):
        await step(8, qkv(1), START, CONFIG, max_tokens=10**8)
    async with step.refused(503, "bytes"):
        for number in range(100):
            await step(f"filler {number}", qkv(1), START, CONFIG, max_tokens=2**13)
    await step("grows", qkv(1), START, CONFIG)
    async with step.refused(507, "bytes"):
        for _ in range(1000):
            await step("grows", qkv(64))


async def test_rows_of_one_sequence(step):
    tensors = qkv(2, batch=2)
    answer = await step(7, tensors, START, CONFIG, batch=2)
    assert lengths([answer]) == ["[2, 2]"]
    one = {name: x[:1] for name, x in qkv(1).items()}
    answer = await step(7, one, rows="[1]", expected_length=2)
    assert lengths([answer]) == ["[2, 3]"]
    answer = await step(7, qkv(1, batch=2), expected_length="[2, 3]")
    assert lengths([answer]) == ["[3, 4]"]


async def test_positions_are_taken(step):
    tokens = qkv(3)
    sessions = HttpSessions(step.service.client)
    session_id = await sessions.new()
    positions = torch.tensor([[5, 9, 2]])
    answer = await step(7, {**tokens, "positions": positions}, START, CONFIG)
    expected = await sessions.ok(session_id, "step", {**tokens, "positions": positions})
    assert torch.equal(answer.outputs["out"], expected["out"])


async def test_requests_at_once_run_one_after_the_other(step):
    await step(7, qkv(1), START, CONFIG)
    answers = await asyncio.gather(*(step(7, qkv(1, seed=seed)) for seed in range(8)))
    assert sorted(lengths(answers)) == [*range(2, 10)]


async def test_only_one_of_many_starts_wins(step):
    outcomes = await asyncio.gather(
        *(step(7, qkv(1), START, CONFIG) for _ in range(6)), return_exceptions=True
    )
    assert sum(isinstance(outcome, Refused) for outcome in outcomes) == 5
    assert len(step.registry.sessions) == 1


async def test_statistics_count_sequences(step):
    await step(7, qkv(1), START, CONFIG)
    await step(7, qkv(1))
    await step(7, {}, END)
    with pytest.raises(Refused):
        await step(7, qkv(1))
    path = "/v2/models/rope_session/stats"
    (stats,) = (await step.service.client.get(path)).json()["model_stats"]
    assert stats["inference_count"] == 3
    assert stats["inference_stats"]["fail"]["count"] == 1
    assert stats["inference_stats"]["compute_infer"]["ns"] > 0


async def test_headers_of_sequences_are_not_cached(service):
    cache = service.oip_state.parser.header_cache
    for encoding in ("binary", "raw"):
        step = Stepper(service, encoding)
        await step(encoding, qkv(1), START, CONFIG)
        for _ in range(3):
            await step(encoding, qkv(1))
    assert len(cache) == 0


async def test_metadata_configuration_and_index(service):
    client = service.client
    metadata = (await client.get("/v2/models/rope_session")).json()
    assert [each["name"] for each in metadata["inputs"]] == ["q", "k", "v", "positions"]
    assert [each["name"] for each in metadata["outputs"]] == ["out", "lse"]
    config = (await client.get("/v2/models/rope_session/config")).json()
    assert config["sequence_batching"] == {
        "max_sequence_idle_microseconds": 300_000_000,
        "oldest": {
            "max_candidate_sequences": 1024,
            "preferred_batch_size": [],
            "max_queue_delay_microseconds": 0,
            "preserve_ordering": False,
        },
    }
    assert "dynamic_batching" not in config
    index = (await client.post("/v2/repository/index")).json()
    assert index[-1]["name"] == "rope_session"
    assert "sequence" in (await client.get("/v2")).json()["extensions"]
    assert (await client.get("/v2/models/rope_session/ready")).json()["name"] == "rope_session"


async def test_the_model_is_absent_without_keys():
    async with serving() as service:
        for path in ("", "/config", "/stats", "/ready"):
            response = await service.client.get(f"/v2/models/rope_session{path}")
            assert response.status_code == 404
            assert "ROPE_SEQUENCE_IDS" in response.json()["error"]
        for encoding in ENCODINGS:
            step = Stepper(service, encoding)
            async with step.refused(404, "ROPE_SEQUENCE_IDS"):
                await step(7, qkv(1), START, CONFIG)
        index = (await service.client.post("/v2/repository/index")).json()
        assert "rope_session" not in [entry["name"] for entry in index]


async def test_sequence_ids_need_sessions():
    async with serving(sequence_ids=True, sessions="off") as service:
        response = await service.client.get("/v2/models/rope_session")
        assert response.status_code == 404

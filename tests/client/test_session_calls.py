"""Sessions over HTTP and over a stream, with the client that blocks and with the one that waits."""

import ml_dtypes
import numpy as np
import pytest

from rope_client import (
    AsyncClient,
    Attended,
    Client,
    NoSession,
    RetryPolicy,
    SessionConflict,
    SessionFrozen,
    SessionGone,
    SessionMemoryFull,
    SessionTooLong,
)
from tests.client.fake_service import FakeService
from tests.client.fake_sessions import Problem
from tests.client.session_tools import CONFIGURATION, Asked, close, expected, tokens


@pytest.fixture
def service():
    fake = FakeService()
    yield fake
    fake.close()


@pytest.fixture(params=["sync", "async"])
async def client(request, service):
    options = {"retry": RetryPolicy(first_pause_s=1e-3), "timeout_s": 20}
    if request.param == "sync":
        with Client(service.url, **options) as made:
            yield Asked(made)
    else:
        async with AsyncClient(service.url, **options) as made:
            yield Asked(made)


@pytest.fixture
async def session(client):
    return await client.session(**CONFIGURATION, layers=2)


@pytest.fixture(params=["http", "stream"])
async def operations(request, session):
    """The operations of a session over both transports."""
    if request.param == "http":
        yield session
        return
    stream = await session.stream()
    yield stream
    await close(stream)


async def test_a_step_appends_and_attends(operations, session):
    q, k, v = tokens(5)
    prefill = await operations.step(0, q[:, :4], k[:, :4], v[:, :4])
    one = await operations.step(0, q[:, 4:], k[:, 4:], v[:, 4:], return_lse=True)
    np.testing.assert_allclose(prefill.out[0], expected(q[0, :4], k[0, :4], v[0, :4]), atol=1e-6)
    np.testing.assert_allclose(one.out[0], expected(q[0, 4:], k[0], v[0]), atol=1e-6)
    assert one.lse.shape == (1, 1, 4)
    assert (session.lengths, session.length) == (((5,), (0,)), (0,))


async def test_append_then_attend_is_a_step(operations, session):
    q, k, v = tokens(3)
    assert await operations.append(0, k, v) == (3,)
    attended = await operations.attend(0, q)
    stepped = await operations.step(1, q, k, v)
    assert attended.out.tobytes() == stepped.out.tobytes()
    assert session.length == (3,)


async def test_independent_layers_at_once(operations, session):
    q, k, v = (np.stack([x, x]) for x in tokens(3))
    stepped = await operations.step([0, 1], q, k, v)
    assert stepped.out.shape == q.shape
    assert session.lengths == ((3,), (3,))
    assert await operations.append([0, 1], k, v) == (6,)


async def test_packed_rows_of_different_length(client):
    session = await client.session(**CONFIGURATION, batch=2)
    q, k, v = (x[0] for x in tokens(5))
    stepped = await session.step(0, q, k, v, cu_seqlens=[0, 2, 5], positions=[0, 1, 0, 1, 2])
    np.testing.assert_allclose(stepped.out[2:], expected(q[2:], k[2:], v[2:]), atol=1e-6)
    assert session.length == (2, 3)
    q, k, v = tokens(1, batch=2)
    await session.step(0, q, k, v)
    await session.step(0, q[:1], k[:1], v[:1], rows=[1])
    assert session.length == (3, 5)


async def test_operations_on_all_layers(operations, session):
    _, k, v = (np.stack([x, x]) for x in tokens(6))
    await operations.append([0, 1], k, v)
    assert await operations.truncate(5) == (5,)
    assert await operations.truncate(drop=1) == (4,)
    assert await operations.evict(1, 2) == (3,)
    assert await operations.reorder([0, 0]) == (3, 3)
    assert (session.length, session.generation) == ((3, 3), 4)


async def test_every_operation_sends_its_arguments(operations, service):
    """Those that the double cannot do: the parameters are those of the API."""
    refused = []
    for name, arguments, params in [
        ("select_tail", (3, [0, 2]), {"n": 3, "kept": [0, 2]}),
        ("shift", (1, 2, -1), {"start": 1, "stop": 2, "delta": -1}),
        ("rebase", ({"theta": 5e5},), {"to": {"theta": 5e5}}),
        ("attach", ("chunk", 0, 4), {"source": "chunk", "start": 0, "stop": 4}),
    ]:
        service.refusals.append(Problem(422, "unknown"))
        with pytest.raises(Exception, match="unknown"):
            await getattr(operations, name)(*arguments)
        op, sent = service.requests[-1]
        sent.pop("timeout_ms", None)
        refused.append(sent.pop("op_id"))
        guard = {"expected_length": 0, "expected_generation": 0}
        assert (op, sent) == (name, {**params, **guard})
    assert len(set(refused)) == 4


async def test_a_lost_answer_is_asked_for_again(operations, session, service):
    """The work is done once, whatever was lost; the caller sees one answer."""
    q, k, v = tokens(2)
    for op in ("step", "append", "truncate", "reorder", "evict"):
        service.num_lost = 2
        if op == "step":
            out = await operations.step(0, q, k, v)
            assert out.out.shape == q.shape
        elif op == "append":
            assert await operations.append(1, k, v) == (2,)
        elif op == "truncate":
            assert await operations.truncate(1) == (1,)
        elif op == "reorder":
            assert await operations.reorder([0, 0, 0]) == (1, 1, 1)
        else:
            assert await operations.evict(0, 1) == (0, 0, 0)
        assert [name for name, _ in service.requests].count(op) == 3
    assert session.generation == 3


async def test_an_overloaded_service_is_asked_again(operations, service):
    q, k, v = tokens(2)
    service.refusals += [Problem(503, "overloaded")] * 2
    assert (await operations.step(0, q, k, v)).out.shape == q.shape
    assert len(service.requests) == 3


async def test_lost_creates_and_forks_are_made_once(client, service):
    service.num_lost = 1
    session = await client.session(**CONFIGURATION)
    service.num_lost = 1
    forks = await session.fork(2)
    assert len(service.sessions) == 3
    assert len({session.id, *(fork.id for fork in forks)}) == 3


async def test_two_clients_of_a_session(client, session, service):
    """A client that was overtaken is refused, also where the length is the same again."""
    q, k, v = tokens(2)
    other = await client.open_session(session.id)
    await other.step(0, q, k, v)
    await other.step(1, q, k, v)
    with pytest.raises(SessionConflict) as raised:
        await session.step(0, q, v, k)
    assert (raised.value.length, raised.value.generation) == ([2], 0)
    assert raised.value.code == "session_conflict"
    await session.inspect()
    await other.truncate(1)
    await other.append([0, 1], np.stack([k[:, :1]] * 2), np.stack([v[:, :1]] * 2))
    assert session.length == other.length
    num_requests = len(service.requests)
    with pytest.raises(SessionConflict):
        await session.step(0, q, k, v)
    assert len(service.requests) == num_requests + 1
    await session.inspect()
    await session.step(0, q, k, v)
    assert session.lengths == ((4,), (2,))


async def test_the_same_step_of_two_clients_is_one(client, session):
    q, k, v = tokens(2)
    other = await client.open_session(session.id)
    first = await other.step(0, q, k, v)
    second = await session.step(0, q, k, v)
    assert first.out.tobytes() == second.out.tobytes()
    assert session.lengths == other.lengths


@pytest.mark.parametrize("reason", ["expired", "restarted"])
async def test_a_session_that_has_gone(operations, session, service, reason):
    service.end(session.id, reason)
    q, k, v = tokens(1)
    with pytest.raises(SessionGone) as raised:
        await operations.step(0, q, k, v)
    assert (raised.value.reason, raised.value.status) == (reason, 410)
    assert raised.value.attempts == 1


@pytest.mark.parametrize(
    ("problem", "error"),
    [
        (Problem(404, "no_session"), NoSession),
        (Problem(409, "layers_differ"), SessionConflict),
        (Problem(413, "session_too_long"), SessionTooLong),
        (Problem(423, "frozen"), SessionFrozen),
        (Problem(507, "kv_memory"), SessionMemoryFull),
    ],
)
async def test_refusals_have_their_own_errors(operations, session, service, problem, error):
    service.refusals.append(problem)
    q, k, v = tokens(1)
    with pytest.raises(error):
        await operations.step(0, q, k, v)
    assert len(service.requests) == 1
    await operations.step(0, q, k, v)
    assert session.lengths[0] == (1,)


async def test_forks_diverge(session):
    q, k, v = tokens(3)
    for layer in (0, 1):
        await session.step(layer, q, k, v)
    (fork,) = await session.fork()
    await fork.step(0, q, k, v)
    assert (session.lengths, fork.lengths) == (((3,), (3,)), ((6,), (3,)))


async def test_a_snapshot_is_not_changed(session):
    assert (await session.freeze()).frozen
    with pytest.raises(SessionFrozen):
        await session.truncate(0)


async def test_the_list_has_all_pages(client):
    for i in range(5):
        await client.session(**CONFIGURATION, labels=["all", f"n{i}"])
    assert len(await client.sessions("all")) == 5
    (document,) = await client.sessions(["all", "n3"])
    assert document.labels == ("all", "n3")
    assert document.id not in repr(document)


async def test_the_document(session):
    document = await session.update(name="chat")
    assert (document.name, document.batch, document.length) == ("chat", 1, (0,))
    assert document.configuration["groups"][0]["layers"] == [0, 1]
    assert (await session.touch()).name == "chat"
    await session.delete()
    await session.delete()
    with pytest.raises(SessionGone):
        await session.inspect()


async def test_many_sessions_step_in_one_request(client, service):
    sessions = [await client.session(**CONFIGURATION, batch=batch) for batch in (1, 2, 1)]
    service.end(sessions[2].id, "expired")
    inputs = [tokens(n, batch, seed=n) for n, batch in ((3, 1), (1, 2), (2, 1))]
    steps = [(session, *each) for session, each in zip(sessions, inputs, strict=True)]
    first, second, third = await client.step_many(steps, layer=0)
    assert isinstance(first, Attended)
    q, k, v = (x[0] for x in inputs[0])
    np.testing.assert_allclose(first.out[0], expected(q, k, v), atol=1e-6)
    q, k, v = (x[1] for x in inputs[1])
    np.testing.assert_allclose(second.out[1], expected(q, k, v), atol=1e-6)
    assert isinstance(third, SessionGone)
    assert third.reason == "expired"
    assert [session.length for session in sessions] == [(3,), (1, 1), (0,)]


@pytest.mark.parametrize("dtype", ["bfloat16", ml_dtypes.bfloat16, np.dtype(ml_dtypes.bfloat16)])
async def test_a_dtype_is_sent_by_name(client, service, dtype):
    await client.session(**CONFIGURATION, dtype=dtype, max_tokens=9)
    (sent,) = service.configurations
    assert (sent["dtype"], sent["max_tokens"]) == ("bfloat16", 9)


@pytest.mark.parametrize("layer", [2, -1, [0, 2]])
async def test_a_layer_that_does_not_exist(operations, layer):
    q, k, v = tokens(1)
    with pytest.raises(ValueError, match="layer must be 0 to 1"):
        await operations.step(layer, q, k, v)


async def test_a_closed_stream_is_not_opened_again(session):
    stream = await session.stream()
    q, k, v = tokens(1)
    await stream.step(0, q, k, v)
    await close(stream)
    with pytest.raises(RuntimeError, match="closed"):
        await stream.step(0, q, k, v)
    await session.step(0, q, k, v)
    assert session.lengths[0] == (2,)


async def test_a_stream_uses_one_connection(session, service):
    stream = await session.stream()
    q, k, v = tokens(1)
    for _ in range(20):
        await stream.step(0, q, k, v)
    await close(stream)
    assert service.num_connections == 1
    assert session.lengths[0] == (20,)

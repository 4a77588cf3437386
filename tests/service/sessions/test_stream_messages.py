"""Messages of a stream: what each is answered with, and in which order."""

import asyncio

import pytest
import torch

from service.errors import Overloaded, TimedOut
from service.sessions.errors import KVMemoryFull, SessionConflict
from tests.service.planned.servers import running, until
from tests.service.sessions.fake_sessions import FakeSessions
from tests.service.sessions.stream_client import message, read, step, stream


async def test_a_step_is_answered_with_its_seq_and_op():
    sessions = FakeSessions()
    async with running(sessions=sessions) as service, stream(service) as connection:
        await connection.send(step(7, layer=0, timeout_ms=500))
        answer = read(await connection.recv())
        out = answer.pop("out")
        assert answer == {"seq": 7, "op": "step", "length": [1]}
        assert out.equal(torch.full((4,), 7.0))
        _, operation, received, context = sessions.calls[0]
        assert operation == "step"
        assert dict(received.params.values) == {"layer": 0, "expected_length": 7}
        assert received.params.key == b'{"expected_length":7,"layer":0}'
        assert context.tenant.name == "anonymous"
    assert service.charged_bytes == 0


async def test_answers_of_many_messages_come_in_order():
    """The operations of another session run meanwhile, and their answers wait."""
    sessions = FakeSessions()
    sessions.hold("a")
    async with running(sessions=sessions) as service, stream(service, "/v1/stream") as connection:
        for seq in range(20):
            await connection.send(step(seq, session="ab"[seq % 2]))
        await until(lambda: sessions.lengths["b"] == 10)
        assert sessions.lengths["a"] == 0
        sessions.release("a")
        answers = [read(await connection.recv()) for _ in range(20)]
        assert [answer["seq"] for answer in answers] == [*range(20)]
        assert [answer["length"] for answer in answers] == [[i // 2 + 1] for i in range(20)]
    assert service.charged_bytes == 0


async def test_operations_of_a_session_run_in_order():
    sessions = FakeSessions()
    async with running(sessions=sessions) as service, stream(service) as connection:
        names = [f"step {i}" for i in range(32)]
        for seq, name in enumerate(names):
            await connection.send(step(seq, name=name))
        for seq in range(32):
            assert read(await connection.recv())["seq"] == seq
        assert sessions.committed == names


async def test_all_operations_but_delete():
    names = ("select_tail", "evict", "shift", "rebase", "reorder", "attach", "fork", "inspect")
    async with running(sessions=FakeSessions()) as service, stream(service) as connection:
        for seq, name in enumerate(names):
            await connection.send(message(op=name, seq=seq, rows=[0]))
            assert read(await connection.recv()) == {"seq": seq, "op": name, "rows": [0]}
        await connection.send(message(op="delete", seq=9))
        answer = read(await connection.recv())
        assert (answer["status"], answer["code"], answer["seq"]) == (422, "unknown", 9)


@pytest.mark.parametrize("name", ["append", "step", "truncate"])
async def test_a_guard_is_mandatory(name: str):
    async with running(sessions=FakeSessions()) as service, stream(service) as connection:
        await connection.send(message(op=name, seq=3, expected_generation=0))
        answer = read(await connection.recv())
        assert (answer["status"], answer["code"], answer["seq"]) == (422, "config", 3)
        assert answer["op"] == name


@pytest.mark.parametrize(
    ("params", "code", "seq"),
    [
        ({"op": "inspect"}, "config", None),
        ({"op": "inspect", "seq": True}, "config", None),
        ({"op": "inspect", "seq": -1}, "config", None),
        ({"op": "inspect", "seq": 2**63}, "config", None),
        ({"op": "inspect", "seq": 1.0}, "config", None),
        ({"op": "inspect", "seq": "1"}, "config", None),
        ({"seq": 2**63 - 1}, "config", 2**63 - 1),
        ({"seq": 1, "op": ["step"]}, "config", 1),
        ({"seq": 1, "op": "nothing"}, "unknown", 1),
        ({"seq": 1, "op": "inspect", "timeout_ms": 0}, "config", 1),
        ({"seq": 1, "op": "inspect", "timeout_ms": "5"}, "config", 1),
        ({"seq": 1, "op": "inspect", "session": "b"}, "config", 1),
        ({"seq": 1, "op": "inspect", "session": 5}, "config", 1),
    ],
)
async def test_bad_parameters(params: dict[str, object], code: str, seq: int | None):
    async with running(sessions=FakeSessions()) as service, stream(service) as connection:
        await connection.send(message(**params))
        answer = read(await connection.recv())
        assert (answer["status"], answer["code"], answer["seq"]) == (422, code, seq)
        await connection.send(message(op="inspect", seq=5, session="a"))
        assert read(await connection.recv()) == {"op": "inspect", "seq": 5}


async def test_messages_of_the_stream_of_all_sessions_name_theirs():
    async with running(sessions=FakeSessions()) as service, stream(service, "/v1/stream") as c:
        await c.send(message(op="inspect", seq=0))
        await c.send(message(op="inspect", seq=1, session="nobody"))
        await c.send(message(op="inspect", seq=2, session="b"))
        first, second, third = [read(await c.recv()) for _ in range(3)]
        assert (first["status"], first["code"]) == (422, "config")
        assert (second["status"], second["code"], second["seq"]) == (404, "no_session", 1)
        assert third == {"op": "inspect", "seq": 2}


@pytest.mark.parametrize("data", [b"", b"x", bytes(8), b"\xff" * 100, message(op="step")[:-1]])
async def test_what_cannot_be_read_is_400(data: bytes):
    async with running(sessions=FakeSessions()) as service, stream(service) as connection:
        await connection.send(data)
        answer = read(await connection.recv())
        assert (answer["status"], answer["code"], answer["seq"]) == (400, "bad_message", None)
        await connection.send(step(0))
        assert read(await connection.recv())["length"] == [1]


async def test_a_long_header_is_400():
    async with running(sessions=FakeSessions()) as service, stream(service) as connection:
        await connection.send(message(op="inspect", seq=1, text="x" * 2**18))
        answer = read(await connection.recv())
        assert (answer["status"], answer["seq"]) == (400, None)


@pytest.mark.parametrize(
    ("failure", "status", "members"),
    [
        (
            SessionConflict("no", length=[3], generation=2, layer=1),
            409,
            {"length": [3], "layer": 1},
        ),
        (KVMemoryFull(5, 3), 507, {"wanted_bytes": 5, "free_bytes": 3}),
        (TimedOut(), 504, {}),
        (Overloaded("full", 4), 503, {"retry_after_s": 4}),
        (ValueError("a bug"), 500, {"code": "internal"}),
    ],
)
async def test_failures_are_problems_and_the_stream_goes_on(
    failure: Exception, status: int, members: dict[str, object]
):
    sessions = FakeSessions()
    sessions.failure = failure
    async with running(sessions=sessions) as service, stream(service) as connection:
        await connection.send(message(op="attend", seq=1))
        text = await connection.recv()
        assert isinstance(text, str)
        answer = read(text)
        assert answer["status"] == status
        assert answer | {"seq": 1, "op": "attend"} | members == answer
        await connection.send(step(0))
        assert read(await connection.recv())["seq"] == 0
    assert service.charged_bytes == 0


async def test_a_message_that_does_not_fit_the_memory_budget():
    async with (
        running(sessions=FakeSessions(), memory_budget_bytes=2**20) as service,
        stream(service) as connection,
    ):
        service.handler.admission.charge(2**20 - 1000)
        await connection.send(step(3, size=2**12))
        answer = read(await connection.recv())
        assert (answer["status"], answer["code"], answer["seq"]) == (503, "overloaded", 3)
        await connection.send(message(op="inspect", seq=4))
        assert read(await connection.recv())["seq"] == 4


async def test_deadlines_are_those_of_messages():
    sessions = FakeSessions()
    async with running(sessions=sessions) as service, stream(service) as connection:
        for seq, more in enumerate(({"timeout_ms": 1000}, {}, {"timeout_ms": 10**9})):
            await connection.send(message(op="inspect", seq=seq, **more))
            await connection.recv()
        first, second, third = [context.deadline for *_, context in sessions.calls]
        assert first < second < third
        assert third - first < service.handler.settings.max_timeout_s + 60


async def test_large_messages_and_answers():
    sessions = FakeSessions()
    async with running(sessions=sessions) as service, stream(service) as connection:
        for seq in range(3):
            sending = asyncio.create_task(connection.send(step(seq, size=2**20)))
            answer = read(await connection.recv())
            await sending
            assert answer["out"].equal(torch.full((2**20,), float(seq)))
    assert service.charged_bytes == 0


async def test_messages_are_counted_by_operation_and_code():
    sessions = FakeSessions()
    async with running(sessions=sessions) as service, stream(service) as connection:
        for data in (step(0), message(op="step", seq=1), message(op="no_such", seq=2), b"\0" * 9):
            await connection.send(data)
            await connection.recv()
        ops = [
            ("step", "ok"),
            ("step", "config"),
            ("unknown", "unknown"),
            ("unknown", "bad_message"),
        ]
        name = "rope_session_ops_total"
        assert [service.metric(name, op=op, code=code) for op, code in ops] == [1, 1, 1, 1]

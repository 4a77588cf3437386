"""The metrics of sessions, over sequences of requests."""

from tests.service.sessions.http_sessions import HttpSessions, http_sessions, kv, part, qkv
from tests.service.test_metrics import scrape

PAGE_BYTES = 2 * 2 * 4 * 8 * 4
"""Of 4 tokens: K and V of 2 heads of width 8, float32."""

OPS = ("step", "append", "attend", "truncate", "fork", "create", "list", "inspect", "delete")


async def seen_by(sessions: HttpSessions) -> dict[str, float]:
    return await scrape(sessions.client)


def count_of(seen: dict[str, float], op: str, code: str = "ok") -> float:
    return seen.get(f'rope_session_ops_total{{code="{code}",op="{op}"}}', 0)


def bytes_of(seen: dict[str, float], kind: str) -> float:
    return seen[f'rope_kv_bytes{{kind="{kind}"}}']


async def test_all_series_exist_before_the_first_session():
    async with http_sessions() as sessions:
        seen = await seen_by(sessions)
    for op in OPS:
        assert seen[f'rope_session_ops_total{{code="ok",op="{op}"}}'] == 0
    for kind in ("used", "reserved", "shared", "free"):
        assert bytes_of(seen, kind) == 0
    for state in ("active", "idle", "frozen"):
        assert seen[f'rope_sessions{{state="{state}",tier="device"}}'] == 0
    for reason in ("expired", "evicted", "deleted", "device_lost"):
        assert seen[f'rope_session_gone_total{{reason="{reason}"}}'] == 0
    for name in ("kv_pages_copied_total", "session_repeats_total", "step_rows_count"):
        assert seen[f"rope_{name}"] == 0
    assert seen["rope_session_segments_count"] == seen["rope_session_step_seconds_count"] == 0


async def test_bytes_follow_appends_truncation_forks_and_deletion():
    async with http_sessions() as sessions:
        session = await sessions.new(max_tokens=16)
        seen = await seen_by(sessions)
        assert (bytes_of(seen, "used"), bytes_of(seen, "reserved")) == (0, 4 * PAGE_BYTES)
        free = bytes_of(seen, "free")

        await sessions.ok(session, "append", kv(10))
        seen = await seen_by(sessions)
        assert bytes_of(seen, "used") == 3 * PAGE_BYTES
        assert bytes_of(seen, "free") == free, "the pages were reserved"

        (fork,) = (await sessions.ok(session, "fork"))["ids"]
        seen = await seen_by(sessions)
        assert bytes_of(seen, "used") == bytes_of(seen, "shared") == 3 * PAGE_BYTES
        assert seen["rope_kv_pages_copied_total"] == 0
        await sessions.ok(fork, "append", kv(1))
        seen = await seen_by(sessions)
        assert seen["rope_kv_pages_copied_total"] == 1
        assert bytes_of(seen, "used") == 4 * PAGE_BYTES
        assert bytes_of(seen, "shared") == 2 * PAGE_BYTES

        await sessions.ok(session, "truncate", length=0)
        seen = await seen_by(sessions)
        assert (bytes_of(seen, "used"), bytes_of(seen, "shared")) == (3 * PAGE_BYTES, 0)
        await sessions.client.delete(f"/v1/sessions/{fork}")
        await sessions.client.delete(f"/v1/sessions/{session}")
        seen = await seen_by(sessions)
        assert bytes_of(seen, "used") == bytes_of(seen, "reserved") == 0
        assert seen['rope_session_gone_total{reason="deleted"}'] == 2


async def test_operations_are_counted_by_code_and_sessions_by_state():
    async with http_sessions() as sessions:
        session = await sessions.new()
        await sessions.ok(session, "step", qkv(1), expected_length=0)
        await sessions.call(session, "step", qkv(1, seed=1), expected_length=5)
        await sessions.call("r1.0.none", "step", qkv(1))
        await sessions.call(session, "no_such_operation")
        await sessions.client.get("/v1/sessions")
        await sessions.client.patch(f"/v1/sessions/{session}", json={"frozen": True})
        await sessions.call(session, "truncate", length=0)
        seen = await seen_by(sessions)
    assert count_of(seen, "step") == count_of(seen, "create") == count_of(seen, "list") == 1
    assert count_of(seen, "step", "session_conflict") == count_of(seen, "step", "no_session") == 1
    assert count_of(seen, "truncate", "frozen") == count_of(seen, "change") == 1
    assert seen['rope_sessions{state="frozen",tier="device"}'] == 1
    assert seen['rope_sessions{state="idle",tier="device"}'] == 0
    assert not any("no_such_operation" in name or session in name for name in seen)


async def test_steps_are_timed_and_runs_have_rows_and_segments():
    async with http_sessions() as sessions:
        session = await sessions.new(batch=3)
        await sessions.ok(session, "step", qkv(4, batch=3))
        await sessions.ok(session, "append", kv(4, batch=3))
        seen = await seen_by(sessions)
        assert (seen["rope_step_rows_count"], seen["rope_step_rows_sum"]) == (2, 6)
        assert (seen["rope_session_segments_count"], seen["rope_session_segments_sum"]) == (1, 1)
        assert seen["rope_session_step_seconds_count"] == 1
        assert 0 < seen["rope_session_step_seconds_sum"] < 10

        await sessions.ok(session, "shift", start=2, stop=3, delta=10)
        q = {"q": qkv(1, batch=3)["q"]}
        await sessions.ok(session, "attend", q)
        after = await seen_by(sessions)
        assert after["rope_session_segments_sum"] - seen["rope_session_segments_sum"] == 3
        assert after["rope_session_step_seconds_count"] == 1


async def test_each_session_of_a_request_for_many_is_a_step():
    async with http_sessions() as sessions:
        ids = [await sessions.new(), await sessions.new()]
        tensors = {name: x[0] for name, x in qkv(2).items()}
        cu_seqlens = {"cu_seqlens": [0, 1, 2]}
        body = {name: x.tolist() for name, x in tensors.items()} | cu_seqlens
        body |= {"sessions": ids, "expected_lengths": [0, 7]}
        assert (await sessions.client.post("/v1/step", json=body)).status_code == 200
        seen = await seen_by(sessions)
    assert count_of(seen, "step_many") == count_of(seen, "step") == 1
    assert count_of(seen, "step", "session_conflict") == 1
    assert seen["rope_session_step_seconds_count"] == seen["rope_step_rows_sum"] == 1


async def test_repeats_are_counted():
    async with http_sessions() as sessions:
        key = {"Idempotency-Key": "one"}
        params = {"heads": 4, "kv_heads": 2, "head_dim": 8, "rope": {"theta": 500.0}}
        for _ in range(2):
            created = await sessions.client.post("/v1/sessions", json=params, headers=key)
        session = created.json()["id"]
        for _ in range(2):
            await sessions.ok(session, "step", part(qkv(2), 0, 1), expected_length=0)
        for _ in range(2):
            await sessions.ok(session, "append", part(kv(2), 1, 2), expected_length=1)
        for _ in range(2):
            await sessions.ok(session, "truncate", length=1, op_id="a")
        seen = await seen_by(sessions)
    assert seen["rope_session_repeats_total"] == 4, "create, step, append, truncate"


async def test_an_evicted_session_is_counted_and_its_memory_is_reserved_for_another():
    async with http_sessions(kv_bytes=2**16) as sessions:
        old = await sessions.new(max_tokens=400, evictable=True)
        await sessions.ok(old, "append", kv(4))
        await sessions.new(max_tokens=400)
        seen = await seen_by(sessions)
        assert bytes_of(seen, "used") == 0
        assert bytes_of(seen, "reserved") == 100 * PAGE_BYTES
        assert seen['rope_session_gone_total{reason="evicted"}'] == 1
        await sessions.call(old, "append", kv(1))
        assert count_of(await seen_by(sessions), "append", "session_gone") == 1

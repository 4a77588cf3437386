"""Who may use an id, and what an id gets whose session is elsewhere, was, or never was."""

import pytest

from service.access.tenant import Tenant
from service.sessions.lifetime.ids import SessionIds
from tests.kvcache_oracle.conftest import KEY
from tests.kvcache_oracle.remote import Remote, Unchanged, client_of, tokens
from tests.waiting import wait_until

STEP = tokens(1)


def statuses(remote: Remote, session: str) -> set[tuple[int, str, str | None]]:
    """Return what every kind of request gets for an id."""
    path = f"/v1/sessions/{session}"
    replies = [
        remote.call(session, "step", {"layer": 0}, STEP),
        remote.call(session, "attend", {"layer": 0}, {"q": STEP["q"]}),
        remote.call(session, "truncate", {"length": 0}),
        remote.call(session, "fork"),
        remote.ask("POST", "/v1/sessions", {"fork": session}),
        remote.ask("GET", path),
        remote.ask("PATCH", path, {"name": "mine"}),
    ]
    return {(each.status, each.code, each.params.get("reason")) for each in replies}


def parts(session: str) -> list[str]:
    return session.split(".")


def test_an_id_has_the_form_of_the_contract(remote: Remote) -> None:
    reply = remote.ask("POST", "/v1/sessions", {"heads": 2, "kv_heads": 1, "head_dim": 8})
    version, owner, epoch, random, mac = parts(reply.params["id"])
    assert (version, owner, len(random)) == ("r1", "0", 22)
    assert epoch
    assert mac
    assert reply.headers["location"] == f"/v1/sessions/{reply.params['id']}"


def test_another_tenant_learns_nothing(remote: Remote, other: Remote) -> None:
    session = remote.filled()
    with Unchanged(remote, session):
        assert statuses(other, session) == {(404, "no_session", None)}
        assert other.delete(session) == 404
        own = other.filled()
        reply = other.call(own, "attach", {"source": session, "start": 0, "stop": 2})
        assert (reply.status, reply.code) == (404, "no_session")
        assert other.ask("GET", "/v1/sessions").params["sessions"][0]["id"] == own


def test_two_tenants_may_use_one_name(remote: Remote, other: Remote) -> None:
    mine, theirs = remote.create(name="n"), other.create(name="n")
    assert [each["id"] for each in remote.ask("GET", "/v1/sessions?name=n").params["sessions"]] == [
        mine
    ]
    fork = other.ask("POST", "/v1/sessions", {"fork": "n"})
    assert fork.status == 201, fork
    assert remote.ask("POST", "/v1/sessions", {"heads": 2, "kv_heads": 1, "head_dim": 8}).status
    again = remote.ask("POST", "/v1/sessions", {"heads": 2, "kv_heads": 1, "head_dim": 8,
                                                "name": "n"})  # fmt: skip
    assert (again.status, again.code) == (409, "name_taken")
    assert remote.delete(mine) == 204
    assert remote.create(name="n") != theirs


def test_forged_ids_are_unknown(remote: Remote) -> None:
    session = remote.create()
    version, owner, epoch, random, mac = parts(session)
    other_random = ("A" if random[0] != "A" else "B") + random[1:]
    other_mac = ("A" if mac[0] != "A" else "B") + mac[1:]
    for forged in (
        ".".join([version, owner, epoch, other_random, mac]),
        ".".join([version, owner, epoch, random, other_mac]),
        ".".join([version, owner, epoch, random, mac[:-1]]),
        ".".join([version, owner, epoch, random]),
        ".".join([version, owner, epoch + "x", random, mac]),
        ".".join([version, owner + "x", epoch, random, mac]),
        session + ".x",
        session.replace("r1.", "r2.", 1),
        "n",
        "%00",
        "r1....",
        "r1." + "x" * 3000,
    ):
        assert statuses(remote, forged) == {(404, "no_session", None)}, forged
        assert remote.delete(forged) == 404
    assert remote.document(session)["length"] == [0]


def test_a_deleted_session_is_gone(remote: Remote, other: Remote) -> None:
    session = remote.filled()
    assert remote.delete(session) == 204
    assert statuses(remote, session) == {(410, "session_gone", "deleted")}
    assert statuses(other, session) == {(404, "no_session", None)}
    assert remote.delete(session) == 204


def test_an_expired_session_is_gone(remote: Remote) -> None:
    session = remote.create(ttl_s=1, name="short")
    path = f"/v1/sessions/{session}"
    assert int(remote.ask("GET", path).headers["x-session-expires-in"]) <= 1
    wait_until(lambda: remote.ask("GET", path).status == 410)  # GET renews nothing
    assert statuses(remote, session) == {(410, "session_gone", "expired")}
    assert remote.create(name="short")


@pytest.mark.parametrize("ttl_s", [0, 0.5, -1, 1e9, "soon"])
def test_leases_out_of_range(remote: Remote, ttl_s: object) -> None:
    members = {"heads": 2, "kv_heads": 1, "head_dim": 8, "ttl_s": ttl_s}
    assert remote.ask("POST", "/v1/sessions", members).status == 422
    session = remote.create()
    assert remote.ask("PATCH", f"/v1/sessions/{session}", {"ttl_s": ttl_s}).status == 422


def minted(owner: str, tenant: str) -> str:
    """Return an id of another process that has the same key."""
    return SessionIds(owner, KEY.encode()).new(Tenant(tenant)).text


def test_ids_of_other_processes(remote: Remote) -> None:
    elsewhere = minted("1", "a")
    assert statuses(remote, elsewhere) == {(421, "wrong_owner", None)}
    reply = remote.call(elsewhere, "step", {"layer": 0}, STEP)
    assert reply.headers["x-session-owner"] == "1"
    before = minted("0", "a")
    assert statuses(remote, before) == {(410, "session_gone", "restarted")}
    for foreign in (minted("0", "b"), minted("1", "b")):
        assert statuses(remote, foreign) == {(404, "no_session", None)}
    for known in (elsewhere, before):
        forged = ".".join([*parts(known)[:-1], "A" * len(parts(known)[-1])])
        assert statuses(remote, forged) == {(404, "no_session", None)}


def test_ids_of_another_epoch_without_a_common_key(open_service: str) -> None:
    with client_of(open_service) as client:
        remote = Remote(client)
        own = parts(remote.create())
        restarted = ".".join([own[0], own[1], "A" * len(own[2]), own[3], own[4]])
        assert statuses(remote, restarted) == {(410, "session_gone", "restarted")}
        forged = ".".join([*own[:-1], "A" * len(own[-1])])
        assert statuses(remote, forged) == {(404, "no_session", None)}
        remote.delete(".".join(own))

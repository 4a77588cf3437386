"""Other frequencies: keys answer as if they had been rotated by the new rope at first."""

import torch

from tests.kvcache_oracle.remote import Remote, Unchanged, tokens


def test_keys_follow_the_new_rope(remote: Remote) -> None:
    session = remote.filled(9)
    fresh = remote.filled(9, rope={"theta": 500.0})
    reply = remote.call(session, "rebase", {"to": {"theta": 500.0}, "op_id": "r"})
    assert reply.status == 200, reply
    assert reply.params == {"length": [9, 9], "generation": 1}
    again = remote.call(session, "rebase", {"to": {"theta": 500.0}, "op_id": "r"})
    assert again.params["generation"] == 1
    for got, expected in zip(remote.look(session), remote.look(fresh), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    digests = {remote.document(each)["configuration_digest"] for each in (session, fresh)}
    assert len(digests) == 1
    steps = [
        remote.call(each, "step", {"layer": 0}, tokens(1)).tensors["out"]
        for each in (session, fresh)
    ]
    torch.testing.assert_close(*steps, rtol=1e-4, atol=1e-5)


def test_shared_pages_are_rewritten_only_as_a_copy(remote: Remote) -> None:
    session = remote.filled(9)
    fork = remote.call(session, "fork").params["ids"][0]
    with Unchanged(remote, session):
        reply = remote.call(fork, "rebase", {"to": {"theta": 500.0}})
        assert reply.status in (409, 422), reply
        reply = remote.call(fork, "rebase", {"to": {"theta": 500.0}, "copy": True})
        assert reply.status == 200, reply
    assert remote.document(fork)["generation"] == 1


def test_a_rope_that_does_not_fit(remote: Remote) -> None:
    session = remote.filled(9)
    with Unchanged(remote, session):
        for to in ({"theta": -1}, {"thta": 5}, "no-such-model", 5, {"head_dim": 8}):
            assert remote.call(session, "rebase", {"to": to}).status == 422, to
        assert remote.call(session, "rebase", {}).status == 422

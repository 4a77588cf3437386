"""The owner in the id of a session."""

import pickle

import pytest
from rope_ray.session_owner import owner_in_request, owner_of

from service.access.tenant import ANONYMOUS
from service.sessions.lifetime.ids import SessionIds


@pytest.mark.parametrize("owner", ["e3tork6l", "a" * 63])
def test_the_owner_of_an_id_of_the_service(owner):
    session_id = SessionIds(owner).new(ANONYMOUS).text
    assert owner_of(session_id) == owner
    assert owner_in_request("", pickle.dumps({"path": f"/v1/sessions/{session_id}"})) == owner


@pytest.mark.parametrize("text", ["", "r1", "r1.", "r1..x", "r2.abc.x", "xr1.abc.x", "r1.a/b.x"])
def test_other_texts_have_no_owner(text):
    assert owner_of(text) is None


def test_the_header_wins_over_the_path():
    scope = pickle.dumps({"path": "/v1/sessions/r1.path.e.r.m/step"})
    assert owner_in_request("r1.header.e.r.m", scope) == "header"
    assert owner_in_request("", scope) == "path"
    assert owner_in_request("no id", scope) is None


def test_a_call_without_a_session_has_no_owner():
    assert owner_in_request("", pickle.dumps({"path": "/v1/rotate"})) is None
    assert owner_in_request("", pickle.dumps({"path": "/v1/sessions"})) is None
    assert owner_in_request("", None) is None

"""The frames of a stream, without network: the other side is websockets' own."""

import json

import pytest
from websockets.frames import Opcode
from websockets.server import ServerProtocol

from rope_client import BadRequest, ConnectionFailed, Overloaded, SessionGone, UnexpectedAnswer
from rope_client.sessions.frames import Frames


class Pair:
    """A client and a server that exchange bytes when they are told to."""

    def __init__(self, accept=True, headers=()):
        self.client = Frames("http://rope:8000/v1/sessions/x/stream", dict(headers))
        self.server = ServerProtocol(subprotocols=["rope.session.v1"])
        self.events = []
        self.to_server()
        (self.request,) = self.events
        if accept:
            self.server.send_response(self.server.accept(self.request))
            self.to_client()

    def to_server(self):
        self.server.receive_data(self.client.bytes_to_send())
        self.events += self.server.events_received()

    def to_client(self):
        for data in self.server.data_to_send():
            self.client.receive(data)


def test_the_handshake():
    pair = Pair(headers={"Authorization": "Bearer key"})
    assert pair.client.is_open
    assert pair.request.path == "/v1/sessions/x/stream"
    assert pair.request.headers["Authorization"] == "Bearer key"
    assert pair.request.headers["Sec-WebSocket-Protocol"] == "rope.session.v1"
    assert "Sec-WebSocket-Extensions" not in pair.request.headers


def test_a_message_and_its_answer():
    pair = Pair()
    pair.client.send(b"step")
    pair.to_server()
    assert (pair.events[-1].opcode, bytes(pair.events[-1].data)) == (Opcode.BINARY, b"step")
    assert pair.client.answer() is None
    pair.server.send_binary(b"out")
    pair.to_client()
    answer = pair.client.answer()
    assert (answer.status, answer.content) == (200, b"out")
    assert pair.client.answer() is None


def test_an_answer_in_parts_with_a_ping_between():
    pair = Pair()
    pair.server.send_binary(b"a", fin=False)
    pair.server.send_ping(b"?")
    pair.server.send_continuation(b"b", fin=True)
    pair.to_client()
    assert pair.client.answer().content == b"ab"
    pair.to_server()
    assert pair.events[-1].opcode is Opcode.PONG


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_bytes_come_in_any_pieces(size):
    pair = Pair()
    pair.server.send_binary(b"x" * 5_000)
    data = b"".join(pair.server.data_to_send())
    for start in range(0, len(data), size):
        pair.client.receive(data[start : start + size])
    assert pair.client.answer().content == b"x" * 5_000


def test_a_failure_has_the_status_of_its_problem():
    pair = Pair()
    problem = {"status": 409, "code": "session_conflict", "seq": 1}
    pair.server.send_text(json.dumps(problem).encode())
    pair.to_client()
    answer = pair.client.answer()
    assert (answer.status, json.loads(answer.content)) == (409, problem)


@pytest.mark.parametrize("text", [b"[]", b"?", b'{"status": "409"}'])
def test_a_failure_that_cannot_be_read(text):
    pair = Pair()
    pair.server.send_text(text)
    pair.to_client()
    assert pair.client.answer().status == 500


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (410, {"code": "session_gone", "reason": "expired"}, SessionGone),
        (503, {"code": "shutting_down", "retry_after_s": 2}, Overloaded),
        (401, {"code": "unauthorized"}, BadRequest),
        (200, {}, UnexpectedAnswer),
    ],
)
def test_a_refused_handshake(status, body, error):
    pair = Pair(accept=False)
    pair.server.send_response(pair.server.reject(status, json.dumps(body)))
    pair.to_client()
    with pytest.raises(error) as raised:
        pair.client.answer()
    assert not pair.client.is_open
    assert (raised.value.status, raised.value.code) == (status, body.get("code"))
    if error is Overloaded:
        assert raised.value.retry_after_s == 2


@pytest.mark.parametrize(
    ("code", "error"), [(1012, ConnectionFailed), (1008, ConnectionFailed), (1009, BadRequest)]
)
def test_a_close_by_the_service(code, error):
    pair = Pair()
    pair.server.send_close(code)
    pair.to_client()
    assert not pair.client.is_open
    with pytest.raises(error) as raised:
        pair.client.answer()
    assert raised.value.is_transient == (error is ConnectionFailed)


def test_an_answer_before_the_close_is_read():
    pair = Pair()
    pair.server.send_binary(b"out")
    pair.server.send_close(1012)
    pair.to_client()
    assert pair.client.answer().content == b"out"
    with pytest.raises(ConnectionFailed):
        pair.client.answer()


@pytest.mark.parametrize("data", [b"", b"HTTP/1.1 200 OK\r\n", b"\xff" * 100])
def test_a_connection_that_ends(data):
    for pair in (Pair(), Pair(accept=False)):
        if data:
            pair.client.receive(data)
        pair.client.receive(b"")
        with pytest.raises(ConnectionFailed):
            pair.client.answer()


def test_close_sends_a_frame_once():
    pair = Pair()
    pair.client.close()
    pair.client.close()
    pair.to_server()
    assert pair.server.close_rcvd.code == 1000
    assert [event.opcode for event in pair.events[1:]] == [Opcode.CLOSE]

"""A small service of KV sessions, HTTP and WebSocket, over a real socket, for tests of the client.

It can lose an answer after it has performed the request.
"""

import base64
import json
import socket
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import ThreadingUnixStreamServer
from urllib.parse import parse_qs, urlsplit

import numpy as np
from safetensors.numpy import load, save
from websockets.frames import Opcode
from websockets.server import ServerProtocol

from tests.client.fake_sessions import Problem, Session

SAFETENSORS = "application/x-safetensors"


class FakeService:
    """The service; `url` is its address."""

    def __init__(self, socket_path=None, tls=None):
        self.sessions, self.gone, self.created, self.requests = {}, {}, {}, []
        self.configurations = []
        self.num_lost = 0
        """Answers to lose: the work is done, and the connection closed."""
        self.refusals = []
        """Problems to answer instead of doing the work."""
        self.num_connections = 0
        self.streams = []
        self.arrived = threading.Semaphore(0)
        """Released by each operation that arrives."""
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self):
                self.service = service
                super().handle_one_request()

            def log_message(self, *_):
                pass

            do_GET = do_POST = do_PATCH = do_DELETE = lambda self: answer(self)

        if socket_path is None:
            self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
            host = "https://localhost:{1}" if tls else "http://127.0.0.1:{1}"
            self.url = host.format(*self.server.server_address)
        else:
            self.server = ThreadingUnixStreamServer(str(socket_path), Handler)
            self.url = f"unix:{socket_path}"
        if tls is not None:
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def close_streams(self):
        """Close the connections of streams, as after a long time without use."""
        while self.streams:
            self.streams.pop().shutdown(socket.SHUT_RDWR)

    def loses(self):
        self.num_lost -= 1
        return self.num_lost >= 0

    def find(self, session_id):
        if session_id in self.gone:
            raise Problem(410, "session_gone", reason=self.gone[session_id])
        if session_id not in self.sessions:
            raise Problem(404, "no_session")
        return self.sessions[session_id]

    def end(self, session_id, reason):
        self.gone[session_id] = reason
        del self.sessions[session_id]

    def run(self, session_id, op, tensors, params):
        self.requests.append((op, params))
        self.arrived.release()
        if self.refusals:
            raise self.refusals.pop(0)
        session = self.find(session_id)
        with session.lock:
            return session.run(op, tensors, params)

    def step_many(self, tensors, params):
        outs, results, cu = [], [], [*tensors["cu_seqlens"]]
        for i, session_id in enumerate(params["sessions"]):
            rows = len(self.sessions[session_id].rows[0]) if session_id in self.sessions else 1
            mine, cu = cu[: rows + 1], cu[rows:]
            part = {n: tensors[n][mine[0] : mine[-1]] for n in "qkv"}
            part["cu_seqlens"] = np.asarray(mine) - mine[0]
            one = {"expected_length": params["expected_lengths"][i],
                   "expected_generation": params["expected_generations"][i],
                   "layer": params.get("layers", [params.get("layer", 0)] * 99)[i]}  # fmt: skip
            try:
                made, answer = self.run(session_id, "step", part, one)
                outs.append(made["out"])
                results.append({"session": session_id, "status": 200, "length": answer["length"]})
            except Problem as problem:
                outs.append(np.zeros_like(part["q"]))
                results.append({"session": session_id, **problem.body})
        return {"out": np.concatenate(outs)}, {"results": results}

    def create(self, make, key):
        if key not in self.created:
            self.created[key] = make()
            self.sessions |= {session.id: session for session in self.created[key]}
        return self.created[key]


def answer(handler):
    service, url = handler.service, urlsplit(handler.path)
    length = int(handler.headers.get("Content-Length", 0))
    kind = handler.headers.get("Content-Type", "")
    tensors, params = decode(handler.rfile.read(length), kind)
    if handler.headers.get("Upgrade") == "websocket":
        return stream(handler, url.path)
    try:
        status, tensors, answered = route(service, handler, url, tensors, params)
    except Problem as problem:
        status, tensors, answered, kind = problem.status, {}, problem.body, "application/json"
    if service.loses():
        handler.close_connection = True
        return None
    body = b"" if status == 204 else encode(tensors, answered, kind)
    handler.send_response(status)
    handler.send_header("Content-Type", kind or "application/json")
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)
    return None


def route(service, handler, url, tensors, params):
    _, _, name, *rest = url.path.split("/")
    key = handler.headers.get("Idempotency-Key")
    if name == "step":
        assert handler.headers["X-Session-Id"] == params["sessions"][0]
        return 200, *service.step_many(tensors, params)
    if not rest:
        if handler.command == "POST":
            service.configurations.append(params)
            (session,) = service.create(lambda: [Session(params)], key)
            return 201, {}, session.document()
        query = parse_qs(url.query)
        found = [each.document() for each in service.sessions.values()
                 if {*query.get("label", [])} <= {*each.labels}]  # fmt: skip
        start = int(query.get("cursor", ["0"])[0])
        more = str(start + 2) if len(found) > start + 2 else None
        return 200, {}, {"sessions": found[start : start + 2], "next_cursor": more}
    assert handler.headers["X-Session-Id"] == rest[0]
    if rest[1:] == ["fork"]:
        source = service.find(rest[0])
        made = service.create(lambda: [source.fork(params) for _ in range(params["count"])], key)
        return 201, {}, {"sessions": [session.document() for session in made]}
    if rest[1:]:
        return 200, *service.run(rest[0], rest[1], tensors, params)
    if handler.command == "DELETE":
        if rest[0] not in service.gone:
            service.find(rest[0])
            service.end(rest[0], "deleted")
        return 204, {}, {}
    session = service.find(rest[0])
    if handler.command == "PATCH":
        session.frozen = session.frozen or params.get("frozen", False)
        session.name = params.get("name", session.name)
    return 200, {}, session.document()


def stream(handler, path):
    service, session_id = handler.service, path.split("/")[3]
    service.num_connections += 1
    service.streams.append(handler.connection)
    handler.close_connection = True
    protocol = ServerProtocol(subprotocols=["rope.session.v1"], max_size=None)
    lines = [f"{name}: {value}\r\n" for name, value in handler.headers.items()]
    protocol.receive_data(f"GET {handler.path} HTTP/1.1\r\n{''.join(lines)}\r\n".encode())
    (request,) = protocol.events_received()
    try:
        service.find(session_id)
        response = protocol.accept(request)
    except Problem as problem:
        response = protocol.reject(problem.status, json.dumps(problem.body))
    protocol.send_response(response)
    if response.status_code != 101:
        handler.wfile.write(b"".join(protocol.data_to_send()))
        return
    while True:
        try:
            handler.connection.sendall(b"".join(protocol.data_to_send()))
            data = handler.connection.recv(1 << 16)
        except OSError:
            return
        if not data:
            return
        protocol.receive_data(data)
        for frame in protocol.events_received():
            if frame.opcode is not Opcode.BINARY:
                continue
            tensors, params = decode(bytes(frame.data), SAFETENSORS)
            op, seq = params.pop("op"), params.pop("seq")
            try:
                tensors, answer = service.run(session_id, op, tensors, params)
                protocol.send_binary(encode(tensors, {**answer, "op": op, "seq": seq}, SAFETENSORS))
            except Problem as problem:
                protocol.send_text(json.dumps({**problem.body, "seq": seq}).encode())
            if service.loses():
                return


def decode(body, kind):
    if kind == SAFETENSORS:
        (length,) = struct.unpack_from("<Q", body)
        metadata = json.loads(body[8 : 8 + length]).get("__metadata__", {})
        return load(body), json.loads(metadata.get("params", "{}"))
    members = json.loads(body or b"{}")
    tensors = {
        name: np.frombuffer(base64.b64decode(each["data"]), each["dtype"]).reshape(each["shape"])
        for name, each in members.items()
        if isinstance(each, dict) and "data" in each
    }
    return tensors, {name: each for name, each in members.items() if name not in tensors}


def encode(tensors, params, kind):
    if kind == SAFETENSORS:
        tensors = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
        return save(tensors, {"params": json.dumps(params)})
    return json.dumps(params | {
        name: {"shape": tensor.shape, "dtype": tensor.dtype.name, "encoding": "base64",
               "data": base64.b64encode(np.ascontiguousarray(tensor)).decode()}
        for name, tensor in tensors.items()
    }).encode()  # fmt: skip

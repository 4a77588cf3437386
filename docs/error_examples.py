"""The rows of docs/errors.md: for each class of errors its cause, its remedy, and examples."""

import asyncio
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import orjson
import torch

import rope_core.errors as core
import service.errors as common
import service.oip.errors as oip
import service.sessions.errors as sessions
from service.asgi.problems import problem_for
from service.batching.admission import Admission, Charge
from service.lifecycle import Lifecycle
from service.oip.errors import classify
from service.server.app import create_app
from service.settings import Settings

PREFIX = "rope-docs-"
"""Beginning of the keys of shared memory in the examples."""

OBJECT = f"{PREFIX}object"
"""The shared memory object of the examples; on the host its name has the process id instead."""

MAX_EXAMPLE = 120
"""Longest request in the table, in characters."""


@dataclass(frozen=True)
class Example:
    """A request that is answered with an error."""

    target: str
    """Method and path."""
    body: object = None
    """Bytes, or a value that is sent as JSON."""
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def content(self) -> bytes:
        """The body on the wire."""
        return self.body if isinstance(self.body, bytes) else orjson.dumps(self.body)

    def __str__(self) -> str:
        """Return the request, shortened, as documentation shows the request."""
        headers = [f"{name}: {value}" for name, value in self.headers.items()]
        body = [] if self.body is None else [self.content.decode().strip()]
        text = " ".join((self.target, *headers, *body)).strip()
        return text if len(text) <= MAX_EXAMPLE else f"{text[:MAX_EXAMPLE]}..."


@dataclass(frozen=True)
class Row:
    """A class of errors."""

    error: type[Exception]
    cause: str
    remedy: str
    examples: tuple[Example, ...] = ()
    make: Callable[[], Exception] | None = None
    """Makes the error, if no single request to a service on a CPU is answered with it."""
    protocols: tuple[str, ...] = ("/v1", "/v2", "gRPC")
    """The protocols that answer the error."""


def _overloaded() -> Exception:
    admission = Admission(1000)
    with Charge(admission) as first, Charge(admission) as second:
        first.add(800)
        try:
            second.add(400)
        except common.Overloaded as error:
            return error
    raise AssertionError("800 and 400 bytes fit into 1,000")


_ROTATE, _ATTENTION, _RESOLVE = "POST /v1/rotate", "POST /v1/attention", "POST /v1/resolve"
_INFER, _REGION = "POST /v2/models/rope/infer", "POST /v2/systemsharedmemory/region"
_Q = [[[1.0, 2.0, 3.0, 4.0]]]
_INPUT = {"name": "q", "datatype": "FP32", "shape": [1, 1, 1, 4], "data": [1, 2, 3, 4]}


def _register(name: str, key: str, byte_size: int) -> Example:
    return Example(f"{_REGION}/{name}/register", {"key": key, "byte_size": byte_size})


ROWS: tuple[Row, ...] = (
    Row(
        common.BadMessage,
        "The body is not what its content type or its length says.",
        "Send one JSON object, or a safetensors file, and a Content-Length that fits.",
        (
            Example(_ROTATE, b'{"q": '),
            Example(_ROTATE, b"12345678", {"content-type": "application/x-safetensors"}),
            Example(_INFER, b"{"),
            Example(_INFER, {"inputs": {}}),
            Example(_INFER, {"inputs": [_INPUT], "parameters": {"theta": None}}),
            Example(_INFER, {"inputs": [_INPUT], "parameters": {"rope": {"theta": 5e5}}}),
            Example(_INFER, {"inputs": [_INPUT], "outputs": [{"name": "q"}] * 2}),
            Example(_INFER, {"inputs": [_INPUT], "outputs": [{"name": "k"}]}),
            Example(_INFER, {"id": "a" * 257, "inputs": [_INPUT]}),
            Example("POST /v2/repository/index", {"ready": 1}),
        ),
    ),
    Row(
        common.BadHeader,
        "A header has an illegal value.",
        "Correct the header, or leave it out.",
        (
            Example(_ROTATE, {"q": _Q}, {"x-request-timeout-ms": "soon"}),
            Example(_INFER, b"{}", {"inference-header-content-length": "3"}),
        ),
        protocols=("/v1", "/v2"),
    ),
    Row(
        common.BadQuery,
        "The query cannot be read, has a name twice, or is on a route without a query.",
        "Percent-encode values, and send each name once. On `/v2` send parameters in the JSON.",
        (
            Example("POST /v1/rotate?inverse", {"q": _Q}),
            Example("POST /v1/rotate?inverse=true&inverse=false", {"q": _Q}),
            Example("POST /v2/models/rope/infer?theta=500000", {"inputs": []}),
        ),
        protocols=("/v1", "/v2"),
    ),
    Row(
        common.BadRequest,
        "The bytes are not a request of HTTP/1.1, or the framing of its body is not valid.",
        "Send requests with an HTTP library; the connection is closed.",
        make=lambda: common.BadRequest("the header is not valid HTTP/1.1"),
        protocols=("/v1", "/v2"),
    ),
    Row(
        common.HeaderTooLarge,
        "The header of the request has too many bytes or fields.",
        "Send fewer fields, or raise ROPE_MAX_HEADER_BYTES or ROPE_MAX_HEADER_FIELDS.",
        make=lambda: common.HeaderTooLarge(
            "the header may have at most 100 fields (ROPE_MAX_HEADER_FIELDS)"
        ),
        protocols=("/v1", "/v2"),
    ),
    Row(
        common.TargetTooLong,
        "Path and query of the request are too long.",
        "Send parameters in the body, or raise ROPE_MAX_TARGET_BYTES.",
        make=lambda: common.TargetTooLong(
            "the target of a request may have at most 8,192 bytes (ROPE_MAX_TARGET_BYTES)"
        ),
        protocols=("/v1", "/v2"),
    ),
    Row(
        common.ExpectationFailed,
        "Expect has another value than 100-continue.",
        "Leave Expect out.",
        make=lambda: common.ExpectationFailed("Expect must be 100-continue"),
        protocols=("/v1", "/v2"),
    ),
    Row(
        common.UpgradeRequired,
        "The route is a WebSocket, and the request does not ask for one.",
        "Open it with a WebSocket client (docs/sessions.md).",
        make=lambda: common.UpgradeRequired("this route is a WebSocket: ask for the upgrade"),
        protocols=("/v1",),
    ),
    Row(
        common.SlowRequest,
        "The header took longer than ROPE_HEADER_TIMEOUT_S, or the body is slower than "
        "ROPE_MIN_BODY_RATE.",
        "Send the request at once; raise the settings for clients with slow connections.",
        make=lambda: common.SlowRequest(
            "the header must arrive within 5 s (ROPE_HEADER_TIMEOUT_S)"
        ),
        protocols=("/v1", "/v2"),
    ),
    Row(
        common.Unauthenticated,
        "The service has keys (ROPE_KEYS_FILE), and the request has no valid key.",
        "Send one field `Authorization: Bearer KEY`; the operator makes keys (docs/security.md).",
        make=lambda: common.Unauthenticated("unknown API key"),
    ),
    Row(
        common.Forbidden,
        "The key is valid, but its tenant lacks the scope that the route needs.",
        "Use a key with that scope, or ask the operator to add the scope to the tenant.",
        make=lambda: common.Forbidden("the route needs the scope admin, the API key has infer"),
    ),
    Row(
        common.NotAcceptable,
        "Accept excludes every media type of the answer.",
        "Accept application/json or application/x-safetensors.",
        (Example(_ROTATE, {"q": _Q}, {"accept": "text/html"}),),
        protocols=("/v1",),
    ),
    Row(
        common.TooLarge,
        "The request is over a limit of the service.",
        "Do what the text says: send bytes, not JSON, split the request, or raise the setting.",
        (
            Example(_ROTATE, b" " * 2**17),
            Example("POST /v2/repository/index", b" " * 2**17),
        ),
    ),
    Row(
        common.TensorTooLarge,
        "The shape of a tensor has more elements than a tensor can have.",
        "Correct the shape.",
        (
            Example(_ROTATE, {"q": {"shape": [2**32, 2**32], "dtype": "float32", "data": [1.0]}}),
            Example(_INFER, {"inputs": [_INPUT | {"shape": [2**32, 2**32]}]}),
        ),
    ),
    Row(
        common.UnsupportedMediaType,
        "Content-Type or Content-Encoding names a format that the route cannot read.",
        "Send a format that the text names.",
        (
            Example(_ROTATE, {"q": _Q}, {"content-type": "text/plain"}),
            Example(_ROTATE, {"q": _Q}, {"content-encoding": "br"}),
            Example(_INFER, {"inputs": [_INPUT]}, {"content-encoding": "br"}),
        ),
        protocols=("/v1", "/v2"),
    ),
    Row(
        common.BadTensor,
        "A tensor of the message is missing or malformed, or excludes another one.",
        "Send the tensors of docs/api.md, with as many elements as the shape says.",
        (
            Example(_ROTATE, {"q": [[1.0], [1.0, 2.0]]}),
            Example(_ROTATE, {"q": {"shape": [2], "dtype": "float32", "data": [1.0]}}),
            Example(_ROTATE, {"q": {"shape": [1], "dtype": "float8", "data": [1.0]}}),
            Example(_ROTATE, [1]),
            Example(_ROTATE, {"q": ["one"]}),
            Example(_INFER, {"inputs": [_INPUT | {"shape": [1, 1, 1, 6]}]}),
            Example(_INFER, {"inputs": [_INPUT | {"datatype": "FLOAT"}]}),
            Example(_INFER, {"inputs": [{**_INPUT, "name": "positions"}]}),
            Example(_ROTATE, {}),
            Example(_ATTENTION, {"q": _Q, "k": _Q}),
            Example(
                _ATTENTION,
                {"q": _Q, "k": _Q, "v": _Q, "positions": [0], "q_positions": [0]},
            ),
        ),
    ),
    Row(
        core.ShapeError,
        "A tensor does not fit the other tensors of the call.",
        "Send the tensors with the shapes of docs/api.md.",
        (
            Example(_ROTATE, {"q": _Q, "k": [[[1.0, 2.0]]]}),
            Example(_ROTATE, {"q": _Q, "positions": [0, 1]}),
        ),
    ),
    Row(
        core.ConfigError,
        "A parameter, or a key of a model's config, has an illegal value.",
        "Correct the value that the text names.",
        (
            Example(_ROTATE, {"q": _Q, "rope": {"theta": 0}}),
            Example(_ROTATE, {"q": _Q, "rope": {"rope_type": "spiral"}}),
            Example(_ROTATE, {"q": _Q, "rope": {"preset": "no-such-model"}}),
            Example(_ATTENTION, {"q": _Q, "k": _Q, "v": _Q, "window": 0}),
            Example(_RESOLVE, {}),
            Example(_INFER, {"inputs": [_INPUT], "parameters": {"rope": "{"}}),
        ),
    ),
    Row(
        common.UnknownName,
        "The route has no tensor, parameter or argument of that name.",
        "Use a name that the text lists; look for a spelling mistake.",
        (
            Example(_ROTATE, {"q": _Q, "invers": True}),
            Example(_ROTATE, {"q": _Q, "v": _Q}),
            Example(_INFER, {"inputs": [_INPUT], "parameters": {"thta": 1e4}}),
        ),
    ),
    Row(
        core.NoBackend,
        "No backend can run the call, or the backend that the request names cannot.",
        "Leave `backend` out, or change what the text names.",
        (Example(_ROTATE, {"q": _Q, "backend": "sdpa"}),),
    ),
    Row(
        core.KernelFailed,
        "A kernel that the call needs cannot be built on this host.",
        "Leave `backend` out: another backend computes the call. See the log of the service.",
        make=lambda: core.KernelFailed("rotary_kernel cannot be built: no C compiler"),
    ),
    Row(
        core.KernelNotBuilt,
        "The backend that the request names still builds the kernel for this call.",
        "Send the request again after Retry-After, or leave `backend` out.",
        make=core.KernelNotBuilt,
    ),
    Row(
        common.QuotaExceeded,
        "The tenant of the key has used up a limit in the keys file (docs/security.md).",
        "Send the request again after Retry-After, send fewer requests, or ask for a higher limit.",
        make=lambda: common.QuotaExceeded("the API key is limited to 10 requests per second"),
    ),
    Row(
        common.Overloaded,
        "The queue, the memory of the requests, or another resource of the service is full.",
        "Send the request again after Retry-After; add replicas if the error persists.",
        make=_overloaded,
    ),
    Row(
        common.Expired,
        "The request's parameter `timeout` (`/v2`, gRPC) ended before the device was free.",
        "Raise `timeout`, or send the request again after Retry-After.",
        make=common.Expired,
    ),
    Row(
        common.ShuttingDown,
        "The service received SIGTERM and answers only what it has begun.",
        "Send the request to another replica.",
        make=common.ShuttingDown,
    ),
    Row(
        common.DeviceFull,
        "The device has too little memory for the call at the moment.",
        "Send a smaller request, or send it again after Retry-After.",
        make=common.DeviceFull,
    ),
    Row(
        common.DeviceLost,
        "The device failed; the process exits with status 70, so that it is restarted.",
        "Send the request to another replica, or again after the restart.",
        make=common.DeviceLost,
    ),
    Row(
        common.DeviceStuck,
        "The device did not finish in time; the process exits with status 71.",
        "Send the request to another replica, or again after the restart.",
        make=common.DeviceStuck,
    ),
    Row(
        common.TimedOut,
        "The deadline of the request passed: X-Request-Timeout-Ms, or that of the gRPC call.",
        "Raise the deadline, or send a smaller request.",
        make=common.TimedOut,
    ),
    Row(
        oip.UnknownModel,
        "The path or the gRPC request names a model or a version that does not exist.",
        "Use a model of `POST /v2/repository/index`, and version 1 or no version.",
        (
            Example("GET /v2/models/llama"),
            Example("GET /v2/models/rope/versions/2"),
        ),
    ),
    Row(
        oip.UnknownService,
        "The gRPC health check asks for a service that does not exist.",
        "Ask for the empty name, or for a service that gRPC reflection lists.",
        make=lambda: oip.UnknownService("unknown service inference.Other"),
        protocols=("gRPC",),
    ),
    Row(
        oip.UnknownRegion,
        "No region of shared memory is registered by that name.",
        "Register the region first.",
        (
            Example("GET /v2/systemsharedmemory/region/r/status"),
            Example("GET /v2/cudasharedmemory/region/r/status"),
        ),
    ),
    Row(
        oip.AlreadyExists,
        "A region of that name is registered already.",
        "Unregister the region first, or use another name.",
        (_register("taken", OBJECT, 8),),
    ),
    Row(
        oip.BadRegion,
        "A region cannot be registered, or does not hold the bytes that the request names.",
        "Correct the key, the offset or the size; the object must exist on the service's host.",
        (
            _register("r", f"{PREFIX}missing", 8),
            _register("r", "/other", 8),
            _register("r", OBJECT, 0),
            _register("r", OBJECT, 4096),
            Example(f"{_REGION}/r/register", {"key": OBJECT, "byte_size": -1}),
        ),
    ),
    Row(
        oip.SequencesOff,
        "A request names the model `rope_session`, and clients may not choose ids of sequences.",
        "Use API keys, or set ROPE_SEQUENCE_IDS (docs/settings.md).",
        (Example("GET /v2/models/rope_session"),),
        protocols=("/v2", "gRPC"),
    ),
    Row(
        oip.SequenceExists,
        "A request with `sequence_start` names a sequence that lives.",
        "End the sequence by `sequence_end`, or use another `sequence_id`.",
        make=lambda: oip.SequenceExists(
            "sequence 7 of model 'rope_session' exists already: end it, or start another"
        ),
        protocols=("/v2", "gRPC"),
    ),
    Row(
        oip.UnknownSequence,
        "A request without `sequence_start` names a sequence that was not started, or has ended.",
        "Send `sequence_start`, and a configuration, with the first request of a sequence.",
        make=lambda: oip.UnknownSequence(
            "inference request for sequence 7 to model 'rope_session' must specify the START flag "
            "on the first request of the sequence"
        ),
        protocols=("/v2", "gRPC"),
    ),
    Row(
        oip.NotServed,
        "The service does not have this part of the protocol.",
        "Use system shared memory; set the log level by ROPE_LOG_LEVEL.",
        (
            Example("POST /v2/cudasharedmemory/region/r/register", {}),
            Example("POST /v2/logging", {"log_info": False}),
        ),
    ),
    Row(
        oip.NotLoadable,
        "A request asks to load or unload a model.",
        "Nothing to do: all models are loaded when the service is ready.",
        (Example("POST /v2/repository/models/rope/load"),),
    ),
    Row(
        oip.SharedMemoryOff,
        "The operator has not turned system shared memory on.",
        "Set ROPE_SHARED_MEMORY_PREFIX (docs/settings.md), or send the tensors in the request.",
        make=oip.SharedMemoryOff,
    ),
    Row(
        sessions.SessionsOff,
        "The operator has turned sessions off, or other hosts reach the service without keys.",
        "Set ROPE_SESSIONS, or ROPE_KEYS_FILE (docs/settings.md).",
        make=sessions.SessionsOff,
        protocols=("/v1",),
    ),
    Row(
        sessions.NoSession,
        "No session has ever had the id, or it is another tenant's.",
        "Create a session, and use the id of its answer.",
        make=sessions.NoSession,
        protocols=("/v1",),
    ),
    Row(
        sessions.SessionGone,
        "The session has ended; `reason` says why.",
        "Create another session, and append the tokens again.",
        make=lambda: sessions.SessionGone("expired"),
    ),
    Row(
        sessions.SessionConflict,
        "The session has another length or generation than the request expects.",
        "Read `length` and `generation`, and go on from there.",
        make=lambda: sessions.SessionConflict(
            "the session has other lengths than expected: [4], not [3]", length=[4], generation=0
        ),
    ),
    Row(
        sessions.LayersDiffer,
        "The operation needs layers of one length, and `lengths` are different.",
        "Append to the shorter layers, or truncate.",
        make=lambda: sessions.LayersDiffer("all layers must have one length"),
        protocols=("/v1",),
    ),
    Row(
        sessions.RolledPast,
        "The operation needs tokens behind the window, which are no longer kept.",
        "Create the session with a larger `rollback`.",
        make=lambda: sessions.RolledPast("tokens behind the window are no longer kept"),
        protocols=("/v1",),
    ),
    Row(
        sessions.NameTaken,
        "Another session of the tenant has the name.",
        "Use another name, or delete that session.",
        make=lambda: sessions.NameTaken("another session has the name prompt"),
    ),
    Row(
        sessions.SessionTooLong,
        "A row would be longer than `max_tokens`, or a reservation larger than all memory.",
        "Create the session with more `max_tokens`, or evict tokens.",
        make=lambda: sessions.SessionTooLong("row 0 would have 9 tokens, more than max_tokens 8"),
    ),
    Row(
        sessions.WrongOwner,
        "The request reached another process than the one that has the session.",
        "Route by the id; X-Session-Owner names the process.",
        make=lambda: sessions.WrongOwner("1"),
        protocols=("/v1",),
    ),
    Row(
        sessions.Frozen,
        "The session is a snapshot.",
        "Fork it, and change the fork.",
        make=sessions.Frozen,
    ),
    Row(
        sessions.SessionQuota,
        "The tenant has as many sessions, bytes or pins as it may have.",
        "Delete sessions, or let the operator raise the limit.",
        make=lambda: sessions.SessionQuota("the tenant may have 1,024 sessions, and has 1,024"),
    ),
    Row(
        sessions.NoKVMemory,
        "Too little memory is free for a new session.",
        "Send the request to another replica, or again after Retry-After; reserve less.",
        make=lambda: sessions.NoKVMemory(2**30, 2**20),
    ),
    Row(
        sessions.KVMemoryFull,
        "Too little memory is free for the session to grow, which is unchanged.",
        "Delete sessions, or create sessions with `max_tokens`, which reserves memory.",
        make=lambda: sessions.KVMemoryFull(2**30, 2**20),
    ),
)


def answer_examples() -> list[tuple[Row, list[str]]]:
    """Return each row with the texts of its errors, which a service in this process answers."""
    num_threads = torch.get_num_threads()
    path = Path(f"/dev/shm/{_unique(OBJECT)}")
    try:
        path.write_bytes(bytes(64))
        return asyncio.run(_answer_all())
    finally:
        path.unlink(missing_ok=True)
        torch.set_num_threads(num_threads)


async def _answer_all() -> list[tuple[Row, list[str]]]:
    limits = {"max_body_bytes": 2**16, "max_json_bytes": 2**16, "allow_backend": True}
    settings = Settings(device="cpu", log_level="error", shared_memory_prefix=PREFIX, **limits)
    app = create_app(settings, Lifecycle())
    transport = httpx.ASGITransport(app)
    async with (
        app.app.router.lifespan_context(app.app),
        httpx.AsyncClient(transport=transport, base_url="http://service") as client,
    ):
        await _send(client, _register("taken", OBJECT, 8))
        return [
            (
                row,
                [str(row.make())]
                if row.make
                else [await _text(client, row, e) for e in row.examples],
            )
            for row in ROWS
        ]


def _unique(text: str) -> str:
    return text.replace(OBJECT, f"{PREFIX}{os.getpid()}")


async def _send(client: httpx.AsyncClient, example: Example) -> httpx.Response:
    method, path = example.target.split()
    headers = {"content-type": "application/json", **example.headers}
    content = _unique(example.content.decode()).encode()
    return await client.request(method, path, content=content, headers=headers)


async def _text(client: httpx.AsyncClient, row: Row, example: Example) -> str:
    response = await _send(client, example)
    answer = response.json()
    error = row.error.__new__(row.error, answer["error"])
    if example.target.startswith("POST /v1"):
        problem = problem_for(error)
        assert (answer["code"], answer["title"]) == (problem.code, problem.title), answer
    else:
        assert response.status_code == classify(error)[0], (example, answer)
    return str(answer["error"]).replace(_unique(OBJECT), OBJECT)

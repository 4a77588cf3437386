"""The OpenAPI description of `GET /v1/recent`."""

from http import HTTPStatus
from typing import Any, Literal

from pydantic import TypeAdapter
from typing_extensions import TypedDict

from service.lifecycle import Phase
from service.v1.openapi import REF_TEMPLATE, json_content, problems_of, ref
from service.v1.schemas import described

PATH = "/v1/recent"


@described
class Drain(TypedDict):
    """The end of the service, which has begun."""

    left_s: float
    """Seconds until calls that still wait are refused."""
    requests: int
    """Calls that wait or run."""


@described
class Queue(TypedDict):
    """The queue before the device."""

    depth: int
    """Calls that wait now."""
    predicted_wait_s: float
    """Time that a new call would wait."""


@described
class SessionPages(TypedDict):
    """Pages of keys and values."""

    used: int
    """Pages with tokens."""
    reserved: int
    """Pages that sessions may use."""
    free: int
    """Pages that further sessions may reserve."""


@described
class LiveSessions(TypedDict):
    """KV sessions that are alive."""

    live: int
    """Number of sessions."""
    pages: SessionPages
    """Their memory."""
    oldest_idle_s: float
    """Time without use of the session that was not used for longest; up to ten seconds old."""


@described
class RecentLimits(TypedDict):
    """Limits of what the rows show."""

    queue_calls: int
    """Most calls that may wait."""
    queue_s: float
    """Longest predicted wait."""
    admitted_bytes: int
    """Most memory of all requests together."""
    memory_bytes: int
    """Memory of the device."""
    lanes: int
    """Runs that may be on the device at a time."""
    connections: int
    """Most open HTTP connections."""


@described
class About(TypedDict):
    """What runs."""

    version: str
    """Version of the service."""
    torch: str
    """Version of PyTorch."""
    python: str
    """Version of Python."""
    device: str
    """cpu, or the name of the GPU."""
    settings: dict[str, str]
    """Settings that differ from the default; the value of secrets and paths is "set"."""


@described
class Recent(TypedDict):
    """What happened in each of the last seconds, and what holds now."""

    now: float
    """Time of the answer in seconds since 1970."""
    started: float
    """Time since which rows are kept. Another time is another process."""
    until: int
    """The last second that is over: the next request has it as `after`."""
    oldest: int
    """First second whose row would be here if anything had happened."""
    phase: Literal[*(phase.value for phase in Phase)]  # type: ignore[valid-type]
    """As `/readyz` has it."""
    drain: Drain | None
    """The end, if it has begun."""
    queue: Queue
    """The queue now."""
    admitted_bytes: int
    """Memory that requests hold now."""
    memory_bytes: int
    """Memory in use on the device now."""
    connections: int
    """Open HTTP connections."""
    sessions: LiveSessions | None
    """KV sessions, if there are any."""
    routes: list[str]
    """Names of the routes, by the numbers in `latency`."""
    limits: RecentLimits
    """Limits of queue, memory and connections."""
    about: About
    """Versions, device and settings."""
    bounds: list[float]
    """Upper bounds of the buckets of durations, in seconds. One more bucket has longer ones."""
    columns: list[str]
    """Names of the values of a row (docs/api.md has their meanings)."""
    rows: list[list[Any]]
    """One row for each second in which something happened, in the order of time."""


def describe(document: dict[str, Any]) -> dict[str, Any]:
    """Add the route and its schemas to an OpenAPI document; return the document."""
    schema = TypeAdapter(Recent).json_schema(ref_template=REF_TEMPLATE)
    schemas = {**schema.pop("$defs"), Recent.__name__: schema}
    document["components"]["schemas"] |= schemas
    after = {"type": "integer", "minimum": 0}
    text = "Answer with the rows of later seconds only: `until` of the answer before."
    operation = {
        "tags": ["status"],
        "operationId": "recent",
        "summary": "The last 15 minutes, second by second",
        "description": (
            "For people who watch a service: the page at `/ui/` and `rope-service top` read it. A "
            "second without a row is one in which nothing happened. Not there if `ROPE_PAGE` is "
            "false."
        ),
        "parameters": [
            {"name": "after", "in": "query", "required": False, "schema": after}
            | {"description": text}
        ],
        "responses": {
            "200": {"description": "The answer", "content": json_content(ref(Recent.__name__))},
            **{
                str(status.value): problems_of(status.value, of_sessions=False)
                for status in (HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY)
            },
        },
    }
    document["paths"] = {PATH: {"get": operation}, **document["paths"]}
    return document

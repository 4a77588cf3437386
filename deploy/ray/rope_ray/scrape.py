"""The metrics of one replica, for clients with the scope `metrics`. Imports nothing of Ray."""

from collections.abc import Sequence
from typing import NamedTuple

from service.asgi import problems
from service.errors import Forbidden, Unauthenticated
from service.inference.handler import InferenceHandler


class Refusal(NamedTuple):
    """The answer to a client that may not read the metrics."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


class Scrape(NamedTuple):
    """What one replica answers."""

    replica: str
    page: str
    refusal: Refusal | None = None


def scrape(service: InferenceHandler, replica: str, authorization: Sequence[bytes]) -> Scrape:
    """Return the metrics of a replica, or the refusal that its own `/metrics` would send.

    Args:
        service: the service of the replica.
        replica: its name.
        authorization: values of all Authorization headers of the request.
    """
    try:
        service.gate.authorize("/metrics", authorization)
    except (Unauthenticated, Forbidden) as failure:
        answer = problems.describe(failure)
        return Scrape(replica, "", Refusal(answer.status, list(answer.headers), answer.body))
    return Scrape(replica, service.metrics.render().decode())

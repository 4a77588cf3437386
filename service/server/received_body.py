"""The body of a planned request while it is received."""

import asyncio
from collections.abc import Mapping

from service.planned.plan import Plan
from service.planned.planner import Match
from service.slab_pool import Slab

_NO_FIELDS: Mapping[bytes, bytes] = {}


class ReceivedBody:
    """The body of a planned request: its memory, and what is known of the request.

    Args:
        plan: of the request; None if it is made when the body is complete.
        match: what the planner knows of the request; None if its plan says all.
        prefix: the header and the description of the tensors, as they were sent.
        slab: memory for the tensors.
        num_bytes: length of the tensors.
        charged_bytes: the request's share of the memory budget.
        arrived: time of `time.monotonic` when the header arrived.
    """

    __slots__ = (
        *("arrived", "charged_bytes", "match", "num_bytes", "num_received", "plan"),
        *("prefix", "slab", "timer"),
    )

    def __init__(
        self,
        plan: Plan | None,
        match: Match | None,
        prefix: bytes,
        slab: Slab,
        num_bytes: int,
        charged_bytes: int,
        arrived: float,
    ) -> None:
        self.plan = plan
        self.match = match
        self.prefix = prefix
        self.slab = slab
        self.num_bytes = num_bytes
        self.num_received = 0
        self.charged_bytes = charged_bytes
        self.arrived = arrived
        self.timer: asyncio.TimerHandle | None = None
        """Runs out at the deadline of a request whose body comes in pieces."""

    @property
    def identifiers(self) -> Mapping[bytes, bytes]:
        """Fields of the header that differ in each request, by name."""
        return _NO_FIELDS if self.match is None else self.match.identifiers

    @property
    def message_id(self) -> bytes:
        """The client's name of the request within the body; empty where it has none."""
        return b"" if self.match is None else self.match.description.message_id

    @property
    def route(self) -> str:
        """The route's name in metrics."""
        if self.plan is not None:
            return self.plan.answer.route
        assert self.match is not None, "a body without a plan has the match of its header"
        return self.match.header.target.decode()

"""The body of a planned request while it is received."""

import asyncio
from dataclasses import dataclass

from service.access.tenant import Tenant
from service.planned.plan import Plan
from service.planned.planner import Match
from service.slab_pool import Slab


@dataclass(slots=True, eq=False)
class ReceivedBody:
    """The body of a planned request: its memory, and what is known of the request."""

    plan: Plan | None
    """None if it is made when the body is complete."""
    match: Match | None
    """What the planner knows of the request; None if its plan says all."""
    prefix: bytes
    """The request up to its tensors, as it was sent."""
    slab: Slab
    """Memory for the tensors."""
    num_bytes: int
    """Length of the tensors."""
    num_body_bytes: int
    """Declared length of the body."""
    num_received: int
    charged_bytes: int
    """The request's share of the memory budget."""
    tenant: Tenant
    """Tenant that sent the request."""
    arrived: float
    """Time of `time.monotonic` when the header arrived."""
    timer: asyncio.TimerHandle | None = None
    """Fires at the deadline of a request whose body arrives in pieces."""

"""Find the plan of a request by the bytes of its header, and make plans."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

from rope_core.errors import RopeError
from service.access.hosts import allowed_hosts, is_allowed, name_of
from service.asgi import io
from service.asgi.request_header import HeaderLimits
from service.endpoints.table import ENDPOINTS, Endpoint
from service.errors import Forbidden, ServiceError, Unauthenticated
from service.oip.state import OipState
from service.planned import header
from service.planned.header import MAX_HEADER_BYTES, MAX_IDENTIFIERS, Header
from service.planned.make_plan import make_plan
from service.planned.oip import oip_routes
from service.planned.plan import Description, ParsedRequest, Plan
from service.planned.v1 import V1Route

MAX_PLANS = 1024
"""Entries of a cache of plans or headers. A full cache is cleared."""

MAX_DESCRIPTION_BYTES = 2**12
"""Longest description of tensors that has a plan."""


class PlannedRoute(Protocol):
    """A route for planned requests."""

    endpoint: Endpoint[Any]

    def accepts(self, fields: Mapping[bytes, bytes]) -> bool:
        """Tell whether requests with these header fields may have a plan.

        Raises:
            ServiceError: no request may have such fields.
        """

    def read_description(self, fields: Mapping[bytes, bytes], body: bytes) -> Description | None:
        """Return the description at the start of a body, None if the request has no plan."""

    def parse(self, description: bytes, tensors: memoryview) -> ParsedRequest | None:
        """Return a request, None if it has no plan.

        Raises:
            ServiceError, RopeError: the request is not valid.
        """


class Match(NamedTuple):
    """A request that has a plan, or may get one."""

    plan: Plan | None
    """None: the plan can be made once the whole body is there."""
    header: Header
    key: bytes
    """The `prefix` of its plan."""
    description: Description
    identifiers: Mapping[bytes, bytes]
    """Fields of the header that differ in each request, by name."""
    start: int
    """Where the bytes of the tensors begin. If the description is not complete, this is a lower
    bound beyond the data."""
    end: int
    """Where the request ends."""


class Planner:
    """Finds and makes plans.

    A header gets no plan when it is seen for the first time: a plan costs more than a request
    without one, and some clients send another header each time.

    Args:
        oip_state: its handler reads requests in the ordinary way.
    """

    def __init__(self, oip_state: OipState) -> None:
        self._handler = oip_state.handler
        settings = self._handler.settings
        self._header_limits = HeaderLimits(
            min(MAX_HEADER_BYTES, settings.max_header_bytes),
            settings.max_header_fields - MAX_IDENTIFIERS,
            settings.max_target_bytes,
        )
        self._allowed_hosts = allowed_hosts(settings.http_host, settings.allowed_hosts)
        self.gate = self._handler.gate
        self._keys = self.gate.keys
        """The keys that gave the tenants of all cached headers and plans."""
        self._seen: set[bytes] = set()
        self._headers: dict[bytes, Header | None] = {}
        self._plans: dict[bytes, Plan | None] = {}
        self._failed: set[bytes] = set()
        self._routes: dict[bytes, PlannedRoute] = {
            endpoint.path.encode(): V1Route(endpoint)
            for endpoint in ENDPOINTS
            if endpoint.path in ("/v1/rotate", "/v1/attention")
        }
        self._routes |= oip_routes(oip_state)

    def match(self, data: bytes) -> Match | None:
        """Return what is known of the request at the start of `data`; None: it is not planned."""
        body_at = data.find(header.END, 0, self._header_limits.max_bytes) + len(header.END)
        if body_at < len(header.END):
            return None
        if self._keys is not self.gate.keys:
            self._headers.clear()
            self._plans.clear()
            self._keys = self.gate.keys
        text = data[:body_at]
        identifiers: Mapping[bytes, bytes] = {}
        parsed = self._headers.get(text)
        if parsed is None:
            bare = header.without_identifiers(text)
            if bare is None:
                return None
            text, identifiers = bare
            parsed = self._header(text)
            if parsed is None:
                return None
        route = self._routes[parsed.target]
        description = route.read_description(
            parsed.fields, data[body_at : body_at + MAX_DESCRIPTION_BYTES]
        )
        max_bytes = min(MAX_DESCRIPTION_BYTES, parsed.num_body_bytes)
        if description is None or description.num_bytes > max_bytes:
            return None
        key = text + description.text
        end = body_at + parsed.num_body_bytes
        start = body_at + description.num_bytes
        plan = self._plans.get(key) if start <= len(data) else None
        if plan is None and key in self._plans:
            return None
        return Match(plan, parsed, key, description, identifiers, start, end)

    def make(self, match: Match, body: memoryview) -> Plan | None:
        """Return the plan of a request whose tensors are `body`, None if it can have none."""
        key = match.key
        if (
            match.header.keys is not self.gate.keys
        ):  # the keys have changed since the header arrived
            return None
        if len(self._plans) >= MAX_PLANS:
            self._plans.clear()
        try:
            plan = self._plans[key] = self._make(match, body)
        except (ServiceError, RopeError):
            # the next request with this description may have numbers that fit, but not the one
            # after two that failed: receiving a whole body in vain takes time
            if key in self._failed:
                self._plans[key] = None
            if len(self._failed) >= MAX_PLANS:
                self._failed.clear()
            self._failed.add(key)
            return None
        return plan

    def timeout_s(self, parsed: Header) -> float:
        """Return how long the client of a request waits.

        Raises:
            BadHeader: as `io.timeout_s`.
        """
        settings, timeout_s = self._handler.settings, io.timeout_s(parsed.fields)
        default_s, max_s = settings.default_timeout_s, settings.max_timeout_s
        return default_s if timeout_s is None else min(timeout_s, max_s)

    def _header(self, text: bytes) -> Header | None:
        """Return a parsed header, None if it is seen for the first time or has no plan."""
        if text in self._headers:
            return self._headers[text]
        if text not in self._seen:
            if len(self._seen) >= MAX_PLANS:
                self._seen.clear()
            self._seen.add(text)
            return None
        if len(self._headers) >= MAX_PLANS:
            self._headers.clear()
        parsed = header.parse(text, self._header_limits)
        try:
            if parsed is not None and not self._may_have_plan(parsed):
                parsed = None
            if parsed is not None and self.gate.needs_keys:
                parsed = self._with_tenant(parsed)
        except (Unauthenticated, Forbidden):
            return None  # not cached: clients without a key could fill the cache
        except (KeyError, ServiceError):
            parsed = None
        self._headers[text] = parsed
        return parsed

    def _may_have_plan(self, parsed: Header) -> bool:
        """Tell whether requests with a header may have a plan.

        Raises:
            KeyError, ServiceError: they may not.
        """
        self.timeout_s(parsed)
        hosts = self._allowed_hosts
        if hosts is not None and not is_allowed(name_of(parsed.fields[b"host"]), hosts):
            return False
        is_small = parsed.num_body_bytes <= self._handler.max_bytes(1)
        return is_small and self._routes[parsed.target].accepts(parsed.fields)

    def _with_tenant(self, parsed: Header) -> Header:
        """Return a header with the tenant of its requests.

        Raises:
            Unauthenticated, Forbidden: as `Gate.authorize`.
        """
        authorization = parsed.fields.get(b"authorization")
        tenant = self.gate.authorize(
            parsed.target.decode(), [] if authorization is None else [authorization]
        )
        return parsed._replace(tenant=tenant, keys=self.gate.keys)

    def _make(self, match: Match, body: memoryview) -> Plan | None:
        route = self._routes[match.header.target]
        timeout_s = self.timeout_s(match.header)
        request = route.parse(match.description.text, body)
        if request is None:
            return None
        num_body_bytes = match.header.num_body_bytes
        plan = make_plan(
            self._handler, route.endpoint, request, match.key, num_body_bytes, timeout_s
        )
        if plan is not None and self.gate.needs_keys:
            tenant, keys = match.header.tenant, match.header.keys
            max_outstanding_s = -1.0 if tenant.has_limits else plan.max_outstanding_s
            plan = replace(plan, tenant=tenant, keys=keys, max_outstanding_s=max_outstanding_s)
        return plan

"""Admission control: each request is charged for its memory before its body is read."""

from collections.abc import Callable
from dataclasses import dataclass, field

from service.access.tenant import ANONYMOUS, Tenant
from service.errors import Overloaded
from service.resident_memory import ResidentLimit

MAX_OF_FREE = 2
"""A tenant may hold at most this multiple of the free budget (the dynamic threshold of Choudhury
and Hahne, 1998). One greedy tenant gets two thirds of the budget; n greedy tenants get equal parts,
and half of a part stays free. Without keys there is no such limit."""

SMALL_BYTES = 2**20
"""Largest charge of a small request."""

RESERVED_PART = 8
"""The budget divided by this is reserved for small requests: a few large answers that clients read
slowly must not stop all others."""


@dataclass(slots=True)
class Admission:
    """The memory budget that all requests share, in bytes."""

    max_bytes: int
    charged_bytes: int = 0
    _max_large_bytes: int = field(init=False, compare=False)
    """The budget without the reserve for small requests."""
    _bytes_of_tenants: dict[str, int] = field(default_factory=dict, init=False)
    """Charged bytes of each tenant, by name; `ANONYMOUS` has no entry."""
    peak_bytes: int = field(default=0, init=False, compare=False)
    """Most charged bytes since `take_peak`."""
    on_charge: Callable[[], None] | None = field(default=None, init=False, compare=False)
    """Called at the next charge, once."""

    def __post_init__(self) -> None:
        self._max_large_bytes = self.max_bytes - self.max_bytes // RESERVED_PART

    def charge(self, num_bytes: int, held_bytes: int = 0, tenant: Tenant = ANONYMOUS) -> None:
        """Charge a request that already holds `held_bytes` for `num_bytes` more.

        Raises:
            Overloaded: the budget, its part for large requests, or the tenant's part is exceeded. A
                request is never refused while no other request holds memory: other limits bound its
                size.
        """
        charged = self.charged_bytes
        if num_bytes > 0 and charged + num_bytes > self._max_large_bytes and charged != held_bytes:
            is_small = held_bytes + num_bytes <= SMALL_BYTES
            max_bytes = self.max_bytes if is_small else self._max_large_bytes
            if charged + num_bytes > max_bytes:
                raise Overloaded(
                    f"requests hold {charged:,} of {max_bytes:,} bytes (ROPE_MEMORY_BUDGET_BYTES)"
                )
        if tenant is not ANONYMOUS:
            self._charge_tenant(tenant, num_bytes, held_bytes)
        self.charged_bytes = charged = charged + num_bytes
        if charged > self.peak_bytes:
            self.peak_bytes = charged
        if self.on_charge is not None:
            on_charge, self.on_charge = self.on_charge, None
            on_charge()

    def take_peak(self) -> int:
        """Return the most bytes that were charged at a time since the last call."""
        peak, self.peak_bytes = self.peak_bytes, self.charged_bytes
        return peak

    def release(self, num_bytes: int, tenant: Tenant = ANONYMOUS) -> None:
        """Return charged bytes to the budget."""
        self.charged_bytes -= num_bytes
        if tenant is not ANONYMOUS:
            left = self._bytes_of_tenants.pop(tenant.name, 0) - num_bytes
            if left:
                self._bytes_of_tenants[tenant.name] = left

    def _charge_tenant(self, tenant: Tenant, num_bytes: int, held_bytes: int) -> None:
        charged = self._bytes_of_tenants.get(tenant.name, 0)
        free_bytes = self.max_bytes - self.charged_bytes - num_bytes
        if charged != held_bytes and charged + num_bytes > MAX_OF_FREE * free_bytes:
            raise Overloaded(
                f"requests of the API key hold {charged:,} bytes, and {free_bytes:,} would be left"
            )
        if num_bytes:
            self._bytes_of_tenants[tenant.name] = charged + num_bytes


@dataclass(slots=True)
class Charge:
    """The bytes charged for one request; released at the end of a `with` block."""

    admission: Admission
    tenant: Tenant = ANONYMOUS
    num_bytes: int = field(default=0, init=False)
    resident_limit: ResidentLimit | None = None
    """Also checked over gRPC: its core holds messages that are not charged yet."""
    _expected_bytes: int = field(default=0, init=False)
    """Charged bytes that `resident_limit` expects and the request does not hold yet."""

    def __enter__(self) -> "Charge":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def add(self, num_bytes: int, *, is_resident: bool = False) -> None:
        """Charge for `num_bytes` more.

        Args:
            num_bytes: to charge.
            is_resident: whether the request holds these bytes already.

        Raises:
            Overloaded: as `Admission.charge` and `ResidentLimit.expect`.
        """
        self.admission.charge(num_bytes, self.num_bytes, self.tenant)
        self.num_bytes += num_bytes
        limit = self.resident_limit
        if limit is None or is_resident or num_bytes <= SMALL_BYTES:
            return
        if self.num_bytes < self.admission.charged_bytes:  # a single request is never refused
            limit.expect(num_bytes)
        else:
            limit.expected_bytes += num_bytes
        self._expected_bytes += num_bytes

    def settle(self) -> None:
        """Stop expecting the charged bytes: the request holds them now."""
        if self.resident_limit is not None:
            self.resident_limit.expected_bytes -= self._expected_bytes
            self._expected_bytes = 0

    def release(self) -> None:
        """Return all charged bytes to the budget."""
        if self._expected_bytes:
            self.settle()
        self.admission.release(self.num_bytes, self.tenant)
        self.num_bytes = 0

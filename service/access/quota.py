"""Quotas of tenants: token buckets, and a limit of requests in progress.

Each process has its own buckets: n replicas together allow n times the rates.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil

from service.access.tenant import Tenant
from service.errors import QuotaExceeded

BURST_S = 1.0
"""Capacity of a bucket, in seconds of its rate."""

ADMITTED = "admitted"
"""Outcome of a request that no limit refused."""

Count = Callable[[str, str], None]
"""Counts a request. Arguments: name of the tenant; `ADMITTED`, or the exceeded limit."""


@dataclass(slots=True)
class TokenBucket:
    """A token bucket. A negative `level` is a debt: no request begins until it is refilled."""

    rate: float
    """Tokens added per second."""
    size: float
    """Capacity in tokens."""
    level: float
    updated: float
    """Time at which `level` was computed, in seconds."""

    def wait_s(self, needed: float, now: float) -> float:
        """Return the seconds until the bucket has `needed` tokens, or is full if it has fewer."""
        self.level = min(self.size, self.level + self.rate * (now - self.updated))
        self.updated = now
        return (min(needed, self.size) - self.level) / self.rate


class _Usage:
    """The buckets of a tenant, and its requests in progress."""

    def __init__(self, tenant: Tenant, now: float) -> None:
        self.num_running = 0
        self.buckets: dict[str, TokenBucket] = {}
        self.set_limits(tenant, now)

    def set_limits(self, tenant: Tenant, now: float) -> None:
        """Use the limits of a reloaded keys file; levels and debts are kept."""
        self.tenant = tenant
        old, self.buckets = self.buckets, {}
        for name, min_size in (
            ("requests_per_s", 1.0),
            ("bytes_per_s", 0.0),
            ("compute_s_per_s", 0.0),
        ):
            rate = getattr(tenant, name)
            if rate is not None:
                size = max(rate * BURST_S, min_size)
                level = min(size, old[name].level) if name in old else size
                self.buckets[name] = TokenBucket(rate, size, level, now)

    def take(self, name: str, amount: float) -> None:
        """Take tokens from a bucket, if the tenant has that limit."""
        bucket = self.buckets.get(name)
        if bucket is not None:
            bucket.level -= amount


class Quotas:
    """Quotas of all tenants. Call all methods on the event loop's thread.

    Args:
        count: called once for each request, when it ends or is refused.
        clock: returns monotonic seconds.
    """

    def __init__(
        self, count: Count = lambda *_: None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._count = count
        self._clock = clock
        self._usages: dict[str, _Usage] = {}
        """By name of the tenant, so that debts survive a reload of the keys file."""

    @contextmanager
    def request(self, tenant: Tenant, num_bytes: int) -> Iterator[None]:
        """Count a request as in progress within the `with` block.

        Raises:
            QuotaExceeded: as `begin`.
        """
        self.begin(tenant, num_bytes)
        try:
            yield
        finally:
            self.end(tenant)

    def begin(self, tenant: Tenant, num_bytes: int) -> None:
        """Begin a request; `end` or `cancel` must follow.

        Raises:
            QuotaExceeded: as `check`.
        """
        self.check(tenant, num_bytes)
        usage = self._usages[tenant.name]
        usage.num_running += 1
        usage.take("requests_per_s", 1.0)

    def try_begin(self, tenant: Tenant, num_bytes: int) -> bool:
        """Begin a request and take the tokens of its body; return False if a limit is exceeded.

        A refusal is not counted: `check` on the ordinary path counts it.
        """
        if self._exceeded(tenant, num_bytes) is not None:
            return False
        usage = self._usages[tenant.name]
        usage.num_running += 1
        usage.take("requests_per_s", 1.0)
        usage.take("bytes_per_s", num_bytes)
        return True

    def check(self, tenant: Tenant, num_bytes: int) -> None:
        """Check that a request may begin now.

        A body larger than the bucket needs a full bucket, and leaves a debt.

        Args:
            tenant: tenant that sent the request.
            num_bytes: declared length of the body. `add_bytes` takes the tokens later.

        Raises:
            QuotaExceeded: a limit of the tenant is exceeded.
        """
        exceeded = self._exceeded(tenant, num_bytes)
        if exceeded is not None:
            name, refusal = exceeded
            self._count(tenant.name, name)
            raise refusal

    def allows(self, tenant: Tenant, num_bytes: int) -> bool:
        """Return whether a request may begin now. Nothing is counted."""
        return self._exceeded(tenant, num_bytes) is None

    def end(self, tenant: Tenant) -> None:
        """End a request that `begin` or `try_begin` began."""
        self._usages[tenant.name].num_running -= 1
        self._count(tenant.name, ADMITTED)

    def cancel(self, tenant: Tenant, num_bytes: int) -> None:
        """Undo `try_begin`: give the tokens of the request and of its body back."""
        usage = self._usages[tenant.name]
        usage.num_running -= 1
        usage.take("requests_per_s", -1.0)
        usage.take("bytes_per_s", -num_bytes)

    def add_bytes(self, tenant: Tenant, num_bytes: int) -> None:
        """Take tokens for `num_bytes` of a body."""
        self._usages[tenant.name].take("bytes_per_s", num_bytes)

    def add_compute(self, tenant: Tenant, seconds: float) -> None:
        """Take tokens for the device time of a call, in seconds."""
        usage = self._usages.get(tenant.name) or self._usage(tenant)
        usage.take("compute_s_per_s", seconds)

    def _exceeded(self, tenant: Tenant, num_bytes: int) -> tuple[str, QuotaExceeded] | None:
        """Return the name of the limit that a request exceeds, and the error; None: no limit."""
        usage = self._usage(tenant)
        limit = tenant.max_concurrent
        if limit is not None and usage.num_running >= limit:
            text = f"the API key is limited to {limit:,} requests in progress"
            return "max_concurrent", QuotaExceeded(text)
        if not usage.buckets:
            return None
        now = self._clock()
        needs = {"requests_per_s": 1.0, "bytes_per_s": num_bytes, "compute_s_per_s": 0.0}
        for name, bucket in usage.buckets.items():
            wait_s = bucket.wait_s(needs[name], now)
            if wait_s > 0:
                unit = name.removesuffix("_per_s").replace("compute_s", "seconds of computing")
                text = f"the API key is limited to {bucket.rate:g} {unit} per second"
                return name, QuotaExceeded(text, max(1, ceil(wait_s)))
        return None

    def _usage(self, tenant: Tenant) -> _Usage:
        usage = self._usages.get(tenant.name)
        if usage is None:
            usage = self._usages[tenant.name] = _Usage(tenant, self._clock())
        elif usage.tenant is not tenant:
            usage.set_limits(tenant, self._clock())
        return usage

"""How much a tenant may ask for: buckets of tokens, and the requests in progress.

All rates are those of one process: a service of several replicas has a multiple of them.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil

from service.access.tenant import Tenant
from service.errors import QuotaExceeded

BURST_S = 1.0
"""A full bucket has the tokens of so many seconds."""

ADMITTED = "admitted"

Count = Callable[[str, str], None]
"""Counts a request: by the name of its tenant, and `ADMITTED` or the limit that it exceeds."""


@dataclass(slots=True)
class TokenBucket:
    """Tokens that come at a steady rate. Taking more than there are makes a debt."""

    rate: float
    """Tokens in a second."""
    size: float
    """Most tokens in the bucket."""
    level: float
    updated: float
    """Time of `level`, in seconds."""

    def wait_s(self, needed: float, now: float) -> float:
        """Return the seconds until the tokens suffice, or until the bucket is full."""
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
        """Follow the limits in the keys file. New tokens come at the new rate."""
        self.tenant = tenant
        old, self.buckets = self.buckets, {}
        for name, least in (
            ("requests_per_s", 1.0),
            ("bytes_per_s", 0.0),
            ("compute_s_per_s", 0.0),
        ):
            rate = getattr(tenant, name)
            if rate is not None:
                size = max(rate * BURST_S, least)
                level = min(size, old[name].level) if name in old else size
                self.buckets[name] = TokenBucket(rate, size, level, now)

    def take(self, name: str, amount: float) -> None:
        """Take tokens from a bucket, if the tenant has it."""
        bucket = self.buckets.get(name)
        if bucket is not None:
            bucket.level -= amount


class Quotas:
    """Limits of all tenants. All methods are for the event loop's thread.

    Args:
        count: called for each request.
        clock: returns monotonic seconds.
    """

    def __init__(
        self, count: Count = lambda *_: None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._count = count
        self._clock = clock
        self._usages: dict[str, _Usage] = {}
        """By name: a tenant keeps its debts when the keys file is read again."""

    @contextmanager
    def request(self, tenant: Tenant, num_bytes: int) -> Iterator[None]:
        """Count a request as one in progress within the block.

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
        """Begin a request and take the tokens of its body, or return False and count nothing."""
        if self._exceeded(tenant, num_bytes) is not None:
            return False
        usage = self._usages[tenant.name]
        usage.num_running += 1
        usage.take("requests_per_s", 1.0)
        usage.take("bytes_per_s", num_bytes)
        return True

    def check(self, tenant: Tenant, num_bytes: int) -> None:
        """Check that a request may begin now.

        A request of more bytes than the bucket can have needs a full bucket, and makes a debt.

        Args:
            tenant: who the request is from.
            num_bytes: declared length of its body. `add_bytes` takes their tokens.

        Raises:
            QuotaExceeded: the tenant has to wait.
        """
        exceeded = self._exceeded(tenant, num_bytes)
        if exceeded is not None:
            name, refusal = exceeded
            self._count(tenant.name, name)
            raise refusal

    def allows(self, tenant: Tenant, num_bytes: int) -> bool:
        """Tell whether a request may begin now, without counting the answer."""
        return self._exceeded(tenant, num_bytes) is None

    def end(self, tenant: Tenant) -> None:
        """Count a request that is over."""
        self._usages[tenant.name].num_running -= 1
        self._count(tenant.name, ADMITTED)

    def cancel(self, tenant: Tenant, num_bytes: int) -> None:
        """Give back the tokens of a request that begins once more, and of the bytes taken."""
        usage = self._usages[tenant.name]
        usage.num_running -= 1
        usage.take("requests_per_s", -1.0)
        usage.take("bytes_per_s", -num_bytes)

    def add_bytes(self, tenant: Tenant, num_bytes: int) -> None:
        """Take tokens for a body, or for the part that came of it."""
        self._usages[tenant.name].take("bytes_per_s", num_bytes)

    def add_compute(self, tenant: Tenant, seconds: float) -> None:
        """Take tokens for what a call has taken on the device."""
        usage = self._usages.get(tenant.name) or self._usage(tenant)
        usage.take("compute_s_per_s", seconds)

    def _exceeded(self, tenant: Tenant, num_bytes: int) -> tuple[str, QuotaExceeded] | None:
        """Return the limit that a request exceeds, and its refusal."""
        usage = self._usage(tenant)
        limit = tenant.max_concurrent
        if limit is not None and usage.num_running >= limit:
            return "max_concurrent", QuotaExceeded(f"the key may have {limit:,} requests at a time")
        if not usage.buckets:
            return None
        now = self._clock()
        needs = {"requests_per_s": 1.0, "bytes_per_s": num_bytes, "compute_s_per_s": 0.0}
        for name, bucket in usage.buckets.items():
            wait_s = bucket.wait_s(needs[name], now)
            if wait_s > 0:
                what = name.removesuffix("_per_s").replace("compute_s", "seconds of computing")
                text = f"the key may have {bucket.rate:g} {what} in a second"
                return name, QuotaExceeded(text, max(1, ceil(wait_s)))
        return None

    def _usage(self, tenant: Tenant) -> _Usage:
        usage = self._usages.get(tenant.name)
        if usage is None:
            usage = self._usages[tenant.name] = _Usage(tenant, self._clock())
        elif usage.tenant is not tenant:
            usage.set_limits(tenant, self._clock())
        return usage

"""Token buckets, requests in progress and debts of tenants, on a simulated clock."""

from collections import Counter
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.access.quota import ADMITTED, Quotas
from service.access.tenant import Tenant
from service.errors import QuotaExceeded
from tests.clock import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock(100.0)


@pytest.fixture
def counted() -> Counter:
    return Counter()


@pytest.fixture
def quotas(clock: Clock, counted: Counter) -> Quotas:
    return Quotas(lambda *labels: counted.update([labels]), clock)


def send(quotas: Quotas, tenant: Tenant, num_bytes: int = 0) -> None:
    """Send a request that is answered at once."""
    with quotas.request(tenant, num_bytes):
        quotas.add_bytes(tenant, num_bytes)


def refused(quotas: Quotas, tenant: Tenant, num_bytes: int = 0) -> QuotaExceeded:
    with pytest.raises(QuotaExceeded) as caught:
        quotas.begin(tenant, num_bytes)
    return caught.value


def test_a_tenant_without_limits_is_counted_and_never_refused(quotas: Quotas, counted: Counter):
    for _ in range(1000):
        send(quotas, Tenant("a"), 2**40)
    quotas.add_compute(Tenant("a"), 1e6)
    send(quotas, Tenant("a"))
    assert counted == {("a", ADMITTED): 1001}


def test_requests(quotas: Quotas, clock: Clock, counted: Counter):
    tenant = Tenant("a", requests_per_s=4)
    for _ in range(4):
        send(quotas, tenant)
    refusal = refused(quotas, tenant)
    assert (str(refusal), refusal.retry_after_s) == (
        "the API key is limited to 4 requests per second",
        1,
    )
    clock.now += 0.25
    send(quotas, tenant)
    refused(quotas, tenant)
    clock.now += 1000
    for _ in range(4):
        send(quotas, tenant)
    refused(quotas, tenant)
    assert counted == {("a", ADMITTED): 9, ("a", "requests_per_s"): 3}


def test_a_low_rate_has_a_burst_of_one_request_and_a_long_time_to_retry(
    quotas: Quotas, clock: Clock
):
    tenant = Tenant("a", requests_per_s=0.125)
    send(quotas, tenant)
    clock.now += 1.5
    assert refused(quotas, tenant).retry_after_s == 7
    clock.now += 6.5
    send(quotas, tenant)


def test_bytes_and_a_body_larger_than_the_bucket(quotas: Quotas, clock: Clock):
    tenant = Tenant("a", bytes_per_s=1000)
    send(quotas, tenant, 400)
    assert refused(quotas, tenant, 800).retry_after_s == 1
    send(quotas, tenant, 600)
    refused(quotas, tenant, 1)
    send(quotas, tenant, 0)
    clock.now += 0.5
    assert refused(quotas, tenant, 5000).retry_after_s == 1
    clock.now += 0.5
    send(quotas, tenant, 5000)
    refusal = refused(quotas, tenant, 500)
    assert (str(refusal), refusal.retry_after_s) == (
        "the API key is limited to 1000 bytes per second",
        5,
    )
    clock.now += 4.5
    send(quotas, tenant, 500)


def test_a_body_of_unknown_length_is_charged_once_it_is_known(quotas: Quotas, clock: Clock):
    tenant = Tenant("a", bytes_per_s=1000)
    with quotas.request(tenant, 0):
        quotas.add_bytes(tenant, 3000)
    assert refused(quotas, tenant, 0).retry_after_s == 2
    clock.now += 2
    send(quotas, tenant, 0)


def test_device_time_delays_later_requests(quotas: Quotas, clock: Clock):
    tenant = Tenant("a", compute_s_per_s=0.5)
    with quotas.request(tenant, 0):
        quotas.add_compute(tenant, 2.5)
    refusal = refused(quotas, tenant)
    assert refusal.retry_after_s == 4
    assert str(refusal) == "the API key is limited to 0.5 seconds of computing per second"
    clock.now += 4
    send(quotas, tenant)


def test_max_concurrent(quotas: Quotas, counted: Counter):
    tenant = Tenant("a", max_concurrent=2)
    with quotas.request(tenant, 0):
        with quotas.request(tenant, 0):
            refusal = refused(quotas, tenant)
        with suppress(ValueError), quotas.request(tenant, 0):
            raise ValueError
        send(quotas, tenant)
    assert (str(refusal), refusal.retry_after_s) == (
        "the API key is limited to 2 requests in progress",
        1,
    )
    assert counted == {("a", ADMITTED): 4, ("a", "max_concurrent"): 1}


def test_a_cancelled_request_is_counted_once(quotas: Quotas, counted: Counter):
    tenant = Tenant("a", requests_per_s=1, bytes_per_s=10, max_concurrent=1)
    quotas.begin(tenant, 10)
    quotas.add_bytes(tenant, 10)
    quotas.cancel(tenant, 10)
    send(quotas, tenant, 10)
    refused(quotas, tenant)
    assert counted == {("a", ADMITTED): 1, ("a", "requests_per_s"): 1}


def test_tenants_do_not_share_and_new_limits_keep_debts(quotas: Quotas, clock: Clock):
    first = Tenant("a", compute_s_per_s=1.0)
    quotas.add_compute(first, 11.0)
    assert refused(quotas, first).retry_after_s == 10
    send(quotas, Tenant("b", compute_s_per_s=1.0))
    assert refused(quotas, Tenant("a", compute_s_per_s=2.0)).retry_after_s == 5
    assert refused(quotas, Tenant("a", compute_s_per_s=2.0)).retry_after_s == 5
    send(quotas, Tenant("a"))


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.integers(0, 64).map(lambda n: n / 64), st.integers(0, 300)), max_size=80)
)
def test_admitted_requests_and_bytes_stay_within_rate_and_burst(steps: list[tuple[float, int]]):
    """After the wait that a refusal names, the same request is admitted."""
    clock = Clock()
    quotas = Quotas(clock=clock)
    tenant = Tenant("a", requests_per_s=3, bytes_per_s=200)
    num_admitted = num_bytes = last_bytes = 0
    for pause_s, body_bytes in steps:
        clock.now += pause_s
        try:
            send(quotas, tenant, body_bytes)
        except QuotaExceeded as refusal:
            clock.now += refusal.retry_after_s
            quotas.begin(tenant, body_bytes)
            quotas.cancel(tenant, 0)
        else:
            num_admitted += 1
            num_bytes += body_bytes
            last_bytes = body_bytes
        assert num_admitted <= 3 + 3 * clock.now + 1e-6
        assert num_bytes - last_bytes <= 200 + 200 * clock.now + 1e-6

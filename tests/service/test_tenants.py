"""Tenants share the queue of the device and the memory budget."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.access.tenant import Tenant
from service.batching.admission import Admission, Charge
from service.errors import ClientLeft, Overloaded
from tests.service.fake_run import COMPUTE_S, Doubler, HeldDoubler, batching

A, B, C = Tenant("a"), Tenant("b"), Tenant("c")


@pytest.fixture
def run() -> Doubler:
    return Doubler()


@pytest.fixture
def held() -> HeldDoubler:
    return HeldDoubler()


async def test_a_call_does_not_wait_for_the_backlog_of_another_tenant(held):
    """The call runs first, whether or not it shares a run with calls of the backlog."""
    async with batching(held, max_batch_tokens=2) as calls:
        entries = [calls.submit(0, tenant=A)]
        await held.started()
        entries += [calls.submit(value, tenant=A) for value in range(1, 7)]
        entries.append(calls.submit(10, tenant=B, batch_key="other"))
        held.end(0)
        await held.started()
        entries.append(calls.submit(11, tenant=B))
        held.release()
        for entry in entries:
            await entry.future
    assert held.runs == [[0], [10], [1, 11], [2, 3], [4, 5], [6]]


async def test_a_tenant_leaves_a_third_of_the_queue_to_others(held):
    async with batching(held, max_queue_calls=9) as calls:
        entries = [calls.submit(0, tenant=A)]
        await held.started()
        entries += [calls.submit(value, tenant=A) for value in range(1, 7)]
        with pytest.raises(Overloaded, match="6 calls of the API key"):
            calls.submit(7, tenant=A)
        entries += [calls.submit(value, tenant=B) for value in (10, 11)]
        with pytest.raises(Overloaded, match="2 calls of the API key"):
            calls.submit(12, tenant=B)
        entries.append(calls.submit(20, tenant=C))
        calls.batcher.withdraw(entries.pop(1), ClientLeft())
        with pytest.raises(Overloaded, match="5 calls of the API key"):
            calls.submit(7, tenant=A)
        held.release()
        for entry in entries:
            await entry.future


async def test_each_tenant_is_charged_for_the_time_of_its_calls(run):
    """The time of a run is divided by the estimates; a failed run is not charged."""
    async with batching(run, inline=True) as calls:
        shared = [
            calls.submit(1, tenant=A, seconds=0.01),
            calls.submit(2, tenant=B, seconds=0.03),
            calls.submit(3, tenant=A, seconds=0.04),
            calls.submit(4, batch_key="two", seconds=0.0, tenant=C),
        ]
        for entry in shared:
            await entry.future
        with pytest.raises(ValueError):  # noqa: PT011 (of the run)
            await calls.submit(-1, tenant=B).future
        assert (await calls.submit(5).future).result == 10
        assert calls.computed == pytest.approx(
            {"a": COMPUTE_S * 5 / 8, "b": COMPUTE_S * 3 / 8, "c": COMPUTE_S}
        )


def test_a_tenant_leaves_a_third_of_the_memory_to_others():
    admission = Admission(900)
    first, more, other, third = (Charge(admission, tenant) for tenant in (A, A, B, C))
    first.add(400)
    more.add(200)
    with pytest.raises(Overloaded, match="the API key hold 600 bytes, and 299 would be"):
        more.add(1)
    other.add(200)
    with pytest.raises(Overloaded, match="requests of the API key"):
        Charge(admission, B).add(1)
    third.add(60)
    more.release()
    Charge(admission, B).add(1)
    with pytest.raises(Overloaded):
        more.add(300)


def test_a_single_request_of_a_tenant_may_take_what_is_free():
    admission = Admission(100)
    with Charge(admission, A) as alone, Charge(admission, B) as beside:
        beside.add(10)
        alone.add(80)
        with pytest.raises(Overloaded):
            beside.add(20)
        beside.release()
        alone.add(100)
    assert admission == Admission(100)


@settings(max_examples=50)
@given(
    st.lists(
        st.tuples(st.sampled_from([A, B, C]), st.integers(0, 5), st.integers(0, 400)), max_size=40
    )
)
def test_charges_of_all_tenants_are_released(steps: list[tuple[Tenant, int, int]]):
    admission = Admission(1000)
    charges = {
        (tenant.name, n): Charge(admission, tenant) for tenant in (A, B, C) for n in range(3)
    }
    for tenant, number, num_bytes in steps:
        charge = charges[tenant.name, number % 3]
        if number > 2:
            charge.release()
            continue
        try:
            charge.add(num_bytes)
        except Overloaded:
            continue
        assert admission.charged_bytes == sum(charge.num_bytes for charge in charges.values())
    for charge in charges.values():
        charge.release()
    assert admission == Admission(1000)

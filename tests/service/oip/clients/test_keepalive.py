"""Pings of gRPC: a connection without calls lives on, where its client asks every 10 s for life."""

import time

import pytest

PINGED_S = 33
"""By then libraries of gRPC have hung up on 3 pings, unless they are told to bear them."""


@pytest.fixture(scope="session")
def pinging(target):
    """A connection that is opened early, its states as they came, and the time of its first."""
    grpc = pytest.importorskip("tritonclient.grpc")
    often = grpc.KeepAliveOptions(10_000, 5_000, True, 0)
    states = []
    with grpc.InferenceServerClient(target.grpc, keepalive_options=often) as client:
        assert client.is_server_live()
        client._channel.subscribe(lambda state: states.append(state.name))
        yield client, states, time.monotonic()


def test_pings_every_10_s_are_borne(pinging):
    client, states, begun = pinging
    time.sleep(max(0.0, begun + PINGED_S - time.monotonic()))
    assert states == ["READY"]
    assert client.is_server_live()

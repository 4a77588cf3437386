"""Pings of gRPC: a connection without calls lives on, where its client asks every 10 s for life."""

import time

PINGED_S = 33
"""By then libraries of gRPC have hung up on 3 pings, unless they are told to bear them."""


def test_pings_every_10_s_are_borne(unused):
    client, states, begun = unused
    time.sleep(max(0.0, begun + PINGED_S - time.monotonic()))
    assert states == ["READY"]
    assert client.is_server_live()

"""A gRPC connection without calls stays open although its client pings every second."""

import time

PINGED_S = 6
"""By default, gRPC servers have closed the connection after 4 s, because of 3 pings."""


def test_a_connection_stays_open_while_its_client_pings(idle_connection):
    client, states, start = idle_connection
    # The time itself is tested. Most of it passes during other tests, which open the connection.
    time.sleep(max(0.0, start + PINGED_S - time.monotonic()))
    assert states == ["READY"]
    assert client.is_server_live()

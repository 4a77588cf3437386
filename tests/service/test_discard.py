"""Received bytes are discarded in the kernel, as many as told and no more."""

import socket
import sys
from contextlib import ExitStack

import pytest

from service.server.discard import discard
from tests.service.test_half_close import pair


@pytest.mark.skipif(sys.platform != "linux", reason="other systems cannot discard")
def test_as_many_bytes_as_told_are_discarded():
    with ExitStack() as stack:
        client, service = pair(stack, socket.AF_INET)
        service.setblocking(False)
        assert discard(service.fileno(), 10) == 0
        service.setblocking(True)
        client.sendall(b"unwanted" + b"next")
        assert service.recv(12, socket.MSG_PEEK | socket.MSG_WAITALL) == b"unwantednext"
        assert discard(service.fileno(), 8) == 8
        assert service.recv(12) == b"next"

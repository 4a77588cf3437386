"""Ports of services that tests start."""

import socket
import subprocess
import sys

import pytest

from tests import free_ports
from tests.conftest import ROOT

SCRIPT = """
from tests import free_ports
free_ports.secrets.choice = lambda _, numbers=iter(range({port}, {port} + 100)): next(numbers)
print(*free_ports.free_ports(1))
"""


def test_a_port_is_given_to_one_process():
    """Also before its service listens."""
    [port] = free_ports.free_ports(1)
    script = SCRIPT.format(port=port)
    found = subprocess.check_output([sys.executable, "-c", script], cwd=ROOT, text=True)
    assert int(found) > port


def test_a_port_on_which_something_listens_is_not_given(monkeypatch: pytest.MonkeyPatch):
    [other] = free_ports.free_ports(1)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        taken = listener.getsockname()[1]
        numbers = iter((taken, *range(other, other + 100)))
        monkeypatch.setattr(free_ports.secrets, "choice", lambda _: next(numbers))
        assert free_ports.free_ports(1)[0] not in (taken, other)

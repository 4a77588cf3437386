"""The worker process: how it is started, stopped and killed, and how a computation stops."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from service.errors import Overloaded, ShuttingDown
from service.wire import Message
from service.worker.process import WorkerProcess
from tests.conftest import ROOT
from tests.waiting import wait_until


def lease(num_bytes: int) -> memoryview:
    return memoryview(bytearray(num_bytes))


INTERRUPTED = """
import socket, sys
from service.worker.interrupter import Abandoned, Interrupter
interrupter = Interrupter(socket.socket(fileno=int(sys.argv[1])))
interrupter.begin(6)
interrupter.end()
print("began", flush=True)
try:
    interrupter.begin(7)
    try:
        for _ in range(10**6):  # some 10 s
            sum(range(1000))
        print("went on", flush=True)
    except Exception:
        print("handled")
except Abandoned:
    print("abandoned", flush=True)
sys.stdin.read()
"""


def test_a_computation_stops_where_it_is():
    control, its_control = socket.socketpair()
    with control, its_control:
        command = [sys.executable, "-c", INTERRUPTED, str(its_control.fileno())]
        with subprocess.Popen(
            command,
            pass_fds=[its_control.fileno()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            text=True,
        ) as running:
            assert running.stdout.readline() == "began\n"
            control.send((7).to_bytes(8, "little"))
            assert running.stdout.readline() == "abandoned\n"
            control.close()
            assert running.wait() == 0, "the process ends when the service closes its socket"


STUB = """
import os, socket, struct, sys
data = socket.socket(fileno=int(sys.argv[1]))
def receive(size):
    return data.recv(size, socket.MSG_WAITALL) if size else b""
header = struct.Struct("<IQ")
data.sendall(b"\1")
while lengths := receive(header.size):
    text, message = header.unpack(lengths)
    request = receive(text) + receive(message)
    if b"die" in request:
        os.kill(os.getpid(), 9)
    answer, body = b'{"pid": %d}' % os.getpid(), b"\\2\\0\\0\\0\\0\\0\\0\\0{}"
    data.sendall(header.pack(len(answer), len(body)) + answer + body)
"""


class Starting(WorkerProcess):
    """Starts before it answers, as the queue does."""

    def answer(self, *request):
        self.start()
        return super().answer(*request)


@pytest.fixture
def stub() -> Iterator[WorkerProcess]:
    process = Starting(lease, None, (sys.executable, "-S", "-c", STUB))
    yield process
    process.stop()


def test_a_process_that_dies_fails_its_request_only(stub):
    first = stub.answer("/", Message({}), 1)[0]["pid"]
    assert stub.answer("/", Message({}), 2)[0]["pid"] == first
    with pytest.raises(Overloaded, match="ended before its answer"):
        stub.answer("/die", Message({}), 3)
    second = stub.answer("/", Message({}), 4)[0]["pid"]
    assert second != first
    os.kill(second, signal.SIGKILL)  # without a request
    wait_until(lambda: os.waitid(os.P_PID, second, os.WEXITED | os.WNOWAIT | os.WNOHANG))
    assert stub.answer("/", Message({}), 5)[0]["pid"] not in (first, second)


def test_a_stopped_process_is_started_again_and_one_that_is_killed_for_good_is_not(stub):
    first = stub.answer("/", Message({}), 1)[0]["pid"]
    stub.stop()
    assert stub.pid is None
    assert stub.answer("/", Message({}), 2)[0]["pid"] != first
    stub.kill(for_good=True)
    with pytest.raises((Overloaded, ShuttingDown)):  # the end may be seen before the request
        stub.answer("/", Message({}), 3)
    with pytest.raises(ShuttingDown):
        stub.answer("/", Message({}), 4)


def test_a_process_that_cannot_be_started_is_an_error_of_the_request():
    process = WorkerProcess(lease, None, ("/no/such/program",))
    with pytest.raises(Overloaded, match="cannot be started"):
        process.start()


@pytest.mark.parametrize("program", ["pass", "while True: pass"])
def test_a_process_that_does_not_become_ready_is_ended(monkeypatch, program):
    monkeypatch.setattr("service.worker.process.START_S", 0.2)
    process = WorkerProcess(lease, None, (sys.executable, "-S", "-c", program))
    with pytest.raises(Overloaded, match="ended at its start"):
        process.start()
    assert process.pid is None

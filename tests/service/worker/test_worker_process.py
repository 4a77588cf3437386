"""The worker process: its answers and errors, how it is stopped, and how it ends."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

from rope_core import ConfigError
from service.endpoints.rope_resolver import RopeResolver
from service.endpoints.table import ENDPOINTS
from service.errors import Overloaded, ShuttingDown, UnknownName
from service.wire import Message, Parameters
from service.worker.frames import ABANDONED, error_of
from service.worker.process import WorkerProcess
from tests.conftest import ROOT
from tests.waiting import wait_until

COMPARE = Parameters.of({"rope": {"head_dim": 8}, "other": {"head_dim": 8, "theta": 5e5}})
PATH = "/v1/compare"


def lease(num_bytes: int) -> memoryview:
    return memoryview(bytearray(num_bytes))


@pytest.fixture(scope="module")
def process() -> Iterator[WorkerProcess]:
    process = WorkerProcess(lease, None)
    yield process
    process.stop()


def test_its_answers_and_errors_are_those_of_this_process(process):
    endpoint = next(each for each in ENDPOINTS if each.path == PATH)
    here = endpoint.read(Message({}, COMPARE), RopeResolver({}))
    fields, answer = process.answer(PATH, Message({}, COMPARE), 1)
    assert fields["outcome"] == "answer"
    assert fields["seconds"] > 0
    assert answer.params.values == {**here.params.values, "warnings": []}
    assert answer.tensors.keys() == here.tensors.keys()
    for name, tensor in here.tensors.items():
        assert torch.equal(answer.tensors[name], tensor)
    for values, kind in (
        ({"rope": {"head_dim": -1}, "other": None}, ConfigError),
        ({"rope": None, "other": None, "others": None}, UnknownName),
    ):
        message = Message({}, Parameters.of(values))
        with pytest.raises(kind) as caught:
            endpoint.read(message, RopeResolver({}))
        failure = error_of(process.answer(PATH, message, 2)[0])
        assert type(failure) is kind
        assert str(failure) == str(caught.value)


def test_an_abandoned_request_is_not_computed_and_the_next_one_is(process):
    process.abandon(3)
    wait_until(lambda: process.answer(PATH, Message({}, COMPARE), 3)[0]["outcome"] == ABANDONED)
    assert process.answer(PATH, Message({}, COMPARE), 4)[0]["outcome"] == "answer"


def test_it_has_a_low_priority_and_ignores_the_signals_of_a_terminal(process):
    pid = process.pid
    assert os.getpriority(os.PRIO_PROCESS, pid) == 19
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(pid, number)
    assert process.answer(PATH, Message({}, COMPARE), 5)[0]["outcome"] == "answer"
    assert process.pid == pid


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
        while True:
            sum(range(1000))
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
while lengths := receive(header.size):
    text, message = header.unpack(lengths)
    request = receive(text) + receive(message)
    if b"die" in request:
        os.kill(os.getpid(), 9)
    answer, body = b'{"pid": %d}' % os.getpid(), b"\\2\\0\\0\\0\\0\\0\\0\\0{}"
    data.sendall(header.pack(len(answer), len(body)) + answer + body)
"""


@pytest.fixture
def stub() -> Iterator[WorkerProcess]:
    process = WorkerProcess(lease, None, (sys.executable, "-S", "-c", STUB))
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
    with pytest.raises(Overloaded):
        stub.answer("/", Message({}), 3)
    with pytest.raises(ShuttingDown):
        stub.answer("/", Message({}), 4)


def test_a_process_that_cannot_be_started_is_an_error_of_the_request():
    process = WorkerProcess(lease, None, ("/no/such/program",))
    with pytest.raises(Overloaded, match="cannot be started"):
        process.answer("/", Message({}), 1)

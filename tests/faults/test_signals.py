"""SIGSTOP, SIGHUP and SIGKILL of a running service."""

import asyncio
import signal
from pathlib import Path

import httpx

from service.server.unix_socket import UnixSocket
from tests.conftest import Serve
from tests.faults.traffic import read_metrics
from tests.service.planned.requests import Client, rotation
from tests.service.test_lifecycle import begin_slow, metric, slow_body
from tests.waiting import wait_until

NUM_CALLS = 1  # beside others that wait, it would be refused at once
TIMED_OUT = 'rope_requests_total{route="/v1/rotate",status="504"}'


async def test_a_stopped_process_runs_nothing_too_late(serve: Serve, tmp_path: Path):
    path = tmp_path / "socket"
    late = rotation(4, x_request_timeout_ms="500")
    variables = {"ROPE_UNIX_SOCKET": str(path), "ROPE_MAX_CALL_S": "60"}
    with serve(ROPE_DRAIN_DELAY_S="30", **variables) as (url, process):
        process.send_signal(signal.SIGHUP)
        slow = begin_slow(url, slow_body(8000))  # on the device until the process is killed
        clients = [
            await Client.connect(("127.0.0.1", httpx.URL(url).port)) for _ in range(NUM_CALLS)
        ]
        for client in clients:
            await client.send(late.request)
        wait_until(lambda: metric(url, "rope_queue_depth") == NUM_CALLS or metric(url, TIMED_OUT))
        process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(0.6)  # the deadlines pass
        process.send_signal(signal.SIGCONT)
        assert [(await client.read()).status for client in clients] == [504] * NUM_CALLS
        samples = await read_metrics(url)
        assert samples["rope_queue_depth"] == samples["rope_batch_requests_count"] == 0
        assert samples["rope_ready"] == 1
        for client in clients:
            client.leave()
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: httpx.get(f"{url}/readyz").json() == {"status": "draining"})
        process.kill()
        process.wait()
        slow.join()
    assert path.is_socket(), "a killed process cannot remove its socket"
    UnixSocket(path).close()  # the next process replaces the socket

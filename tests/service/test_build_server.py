"""The whole service on the event loop of another program, on a thread that is not the main one."""

import asyncio
import socket
import threading

import httpx
import torch

from service.lifecycle import Phase
from service.server.serve import BuiltServer, build_server
from service.settings import Settings
from tests.free_ports import free_ports
from tests.waiting import wait_until

CALL = {"q": [[[1.0, 2.0, 3.0, 4.0]]], "positions": [3]}


def test_it_answers_at_its_port_and_by_its_application_and_drains():
    (grpc_port,) = free_ports(1)
    settings = Settings(
        device="cpu",
        http_port=0,
        grpc_port=grpc_port,
        warm_up_shapes="",
        prefault_bytes=0,
        drain_delay_s=0,
        threads=1,
    )
    answers = []

    async def call_both(built: BuiltServer) -> None:
        ready = (phase async for phase in built.lifecycle.changes() if phase is Phase.READY)
        serving = asyncio.create_task(built.server.serve())
        await anext(ready)
        await ready.aclose()
        await built.server.listening.wait()
        for transport in (None, httpx.ASGITransport(built.app)):
            url = f"http://127.0.0.1:{built.server.http_port}"
            async with httpx.AsyncClient(transport=transport, base_url=url) as client:
                answers.append((await client.post("/v1/rotate", json=CALL)).raise_for_status())
        with socket.socket() as other:
            assert other.connect_ex(("127.0.0.1", grpc_port)) != 0, "it listens for gRPC as well"
        built.lifecycle.drain()
        built.lifecycle.begin_drain()
        await serving
        assert built.lifecycle.exit_code == 0

    def run() -> None:
        asyncio.run(call_both(build_server(settings, listens_for_grpc=False)))

    thread = threading.Thread(target=run)
    threads = torch.get_num_threads()
    thread.start()
    wait_until(lambda: not thread.is_alive())
    torch.set_num_threads(threads)
    assert [answer.json() for answer in answers] == [answers[0].json()] * 2

"""How the worker answers requests, and stops in the middle of one that nobody waits for."""

import logging
import socket
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from rope_core import RopeError
from service.endpoints.presets import load_presets
from service.endpoints.rope_resolver import RopeResolver
from service.endpoints.table import ENDPOINTS
from service.errors import DeviceFull, ServiceError
from service.inference.engine import means_no_memory
from service.resident_memory import trim
from service.wire import Message
from service.worker.frames import (
    ABANDONED,
    READY,
    Closed,
    describe_error,
    receive_frame,
    send_frame,
)
from service.worker.interrupter import Abandoned, Interrupter

_BY_PATH = {endpoint.path: endpoint for endpoint in ENDPOINTS}


def answer_requests(data_fd: int, control_fd: int, presets_dir: str | None = None) -> None:
    """Answer the requests of a socket until the socket is closed."""
    logging.disable()  # the service has logged what is wrong with presets
    torch.set_num_threads(1)
    sock = socket.socket(fileno=data_fd)
    interrupter = Interrupter(socket.socket(fileno=control_fd))
    resolver = RopeResolver(load_presets(None if presets_dir is None else Path(presets_dir)))
    with suppress(OSError):  # the service has ended, which `receive_frame` tells
        sock.sendall(READY)
    while True:
        try:
            request, message = receive_frame(sock, lambda size: memoryview(bytearray(size)))
            send_frame(sock, *_answer(request, message, resolver, interrupter))
        except Closed:
            return
        del message
        trim()


def _answer(
    request: dict[str, Any], message: Message, resolver: RopeResolver, interrupter: Interrupter
) -> tuple[dict[str, Any], Message]:
    """Return the fields and the message of the answer to a request."""
    started = time.perf_counter()
    answer, fields = Message({}), {}
    try:
        try:
            interrupter.begin(request["number"])
            with torch.inference_mode():
                read = _BY_PATH[request["path"]].read(message, resolver)
        finally:
            interrupter.end()
        assert isinstance(read, Message), "endpoints of the worker need no device"
        answer = read
    except Abandoned:
        fields = {"outcome": ABANDONED}
    except (RopeError, ServiceError) as failure:
        fields = describe_error(failure)
    except Exception as failure:
        if means_no_memory(failure):
            return describe_error(DeviceFull()), answer
        traceback.print_exc()
        fields = describe_error(RuntimeError("the worker failed: see standard error"))
    return {"outcome": "answer", "seconds": time.perf_counter() - started} | fields, answer

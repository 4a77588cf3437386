"""Idle memory after many requests: `python -m benchmarks.idle_memory`, with `--help` for more.

Rotations and attention are sent over /v1 (safetensors and JSON), /v2 (binary) and gRPC, in random
order on eight connections. Sizes are random from 1 KiB to 32 MiB: each power of two is equally
likely. JSON bodies have 1 MiB at most. The service has its own defaults, and one core. After the
first 500 requests and several times after them, the load pauses, and a row is printed:

- MiB: resident memory of the idle service.
- difference: from the row of the first 500 requests.
- peak: largest resident memory since the start.
- seconds: of the requests since the row before.
"""

import argparse
import http.client
import json
import os
import random
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import grpc
import safetensors.torch
import torch
from torch import Tensor

from benchmarks import encodings, servers, table
from benchmarks.encodings import GRPC_PREFIX_BYTES, EncodedRequest
from benchmarks.servers import Server

NUM_FIRST = 500
NUM_CONNECTIONS = 8
MIN_BYTES, MAX_BYTES = 2**10, 2**25
MAX_JSON_BYTES = 2**20
JSON_NUMBER_BYTES = 20
HEAD_DIM = 64
MAX_ATTENTION_BYTES = 2**20
"""Longer sequences would take most of the time."""

PROTOCOLS = ("gRPC", "gRPC", "safetensors", "safetensors", "binary", "JSON")
SETTLE_S = 3
"""Time from the last answer to a measurement: the service returns free memory after a second."""

MAX_DIFFERENCE_MIB = 64
"""Between the idle memory after the first requests and after the last."""

NUMBERS = torch.randn(MAX_BYTES // 4, generator=torch.Generator().manual_seed(0))


class Client:
    """A connection over HTTP, and one over gRPC."""

    def __init__(self, server: Server) -> None:
        self._http = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        options = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
        self._grpc = grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}", options)

    def send(self, requests: Sequence[tuple[str, int]]) -> None:
        """Send requests, given as protocol and size, one after the other.

        Raises:
            SystemExit: the status of an answer is not 200.
        """
        for protocol, num_bytes in requests:
            request = _encode(protocol, num_bytes)
            if request.grpc:
                self._grpc.unary_unary(request.path)(request.body[GRPC_PREFIX_BYTES:], timeout=60)
                continue
            self._http.request("POST", request.path, request.body, request.headers)
            response = self._http.getresponse()
            body = response.read()
            if response.status != 200:
                raise SystemExit(f"{request.path}: {response.status} {body[:500]!r}")


def main() -> None:
    """Run the command line."""
    args = _arguments()
    numbers = random.Random(args.seed)
    serve_core, load_core = sorted(os.sched_getaffinity(0))[:2]
    table.print_machine()
    os.sched_setaffinity(0, {load_core})
    with (
        servers.started("service", serve_core, grpc=True) as server,
        ThreadPoolExecutor(NUM_CONNECTIONS) as threads,
    ):
        clients = [Client(server) for _ in range(NUM_CONNECTIONS)]
        table.print_header(("requests", "MiB", "difference", "peak", "seconds"))
        table.print_row((0, _idle_mib(server), "", server.peak_bytes() / 2**20, ""))
        mib: list[float] = []
        for before, after in pairwise(_pauses(args.requests)):
            requests = [*_requests(numbers, after - before)]
            parts = [requests[i::NUM_CONNECTIONS] for i in range(NUM_CONNECTIONS)]
            started = time.monotonic()
            [*threads.map(Client.send, clients, parts)]
            seconds = time.monotonic() - started
            mib.append(_idle_mib(server))
            difference = f"{mib[-1] - mib[0]:+.0f}"
            table.print_row((after, mib[-1], difference, server.peak_bytes() / 2**20, seconds))
    if abs(mib[-1] - mib[0]) > MAX_DIFFERENCE_MIB:
        raise SystemExit(f"the difference is more than {MAX_DIFFERENCE_MIB} MiB")


def _pauses(num_requests: int) -> list[int]:
    return sorted({0, min(NUM_FIRST, num_requests), *(num_requests * i // 5 for i in range(1, 6))})


def _requests(numbers: random.Random, count: int) -> Iterator[tuple[str, int]]:
    for _ in range(count):
        protocol = numbers.choice(PROTOCOLS)
        max_bytes = MAX_JSON_BYTES if protocol == "JSON" else MAX_BYTES
        yield protocol, int(MIN_BYTES * (max_bytes / MIN_BYTES) ** numbers.random())


def _encode(protocol: str, num_bytes: int) -> EncodedRequest:
    """Return a request of about `num_bytes`: attention if the size is odd and not too large."""
    attends = num_bytes % 2 == 1 and num_bytes <= MAX_ATTENTION_BYTES
    number_bytes = JSON_NUMBER_BYTES if protocol == "JSON" else 4
    names = ("q", "k", "v") if attends else ("q",)
    num_tokens = max(1, num_bytes // number_bytes // HEAD_DIM // len(names))
    tensors = {
        name: NUMBERS[i : i + num_tokens * HEAD_DIM].view(1, num_tokens, 1, HEAD_DIM).clone()
        for i, name in enumerate(names)
    }
    match protocol:
        case "safetensors" | "JSON":
            return _v1(protocol, "/v1/attention" if attends else "/v1/rotate", tensors)
        case _:
            return _v2(protocol, attends, tensors)


def _v1(protocol: str, path: str, tensors: dict[str, Tensor]) -> EncodedRequest:
    params = {"rope": {"theta": encodings.THETA}}
    if protocol == "JSON":
        document = {name: tensor.tolist() for name, tensor in tensors.items()} | params
        media_type, body = "application/json", json.dumps(document).encode()
    else:
        media_type = "application/x-safetensors"
        body = safetensors.torch.save(tensors, {"params": json.dumps(params)})
    return EncodedRequest(path, {"Content-Type": media_type}, body, _no_output)


def _v2(protocol: str, attends: bool, tensors: dict[str, Tensor]) -> EncodedRequest:
    model, output = ("rope_attention", "out") if attends else ("rope", "q")
    inputs = tensors if attends else {"q": tensors["q"]}
    if protocol == "gRPC":
        return encodings.grpc_request(model, inputs, output, theta=encodings.THETA)
    path = f"/v2/models/{model}/infer"
    return encodings.binary_request(path, inputs, output, theta=encodings.THETA)


def _no_output(_: bytes) -> Tensor:
    raise AssertionError("the answers of this run are not decoded")


def _idle_mib(server: Server) -> float:
    """Return the resident memory in MiB after a pause."""
    time.sleep(SETTLE_S)
    return server.resident_bytes() / 2**20


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()

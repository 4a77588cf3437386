"""`rope-service bench`: requests a second and latency, beside an echo server in the same run."""

import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import torch

from service.cli import http_load
from service.cli.errors import InputError
from service.cli.http_client import API_KEY, HttpClient
from service.cli.output import console, new_table, number_text
from service.wire import Message, Parameters, params_key, safetensors_codec

ROUNDS = 3
"""The service and the echo take turns: a machine that slows down slows both."""

START_S = 120.0

WORK = ("rotate", "attention")

HEADS, KV_HEADS, HEAD_DIM, CONTEXT = 32, 8, 128, 512

Report = dict[str, Any]


def run(url: str | None, work: str, num_clients: int, seconds: float) -> Report:
    """Measure, and return the report.

    Raises:
        InputError: the work has another name, or a request fails.
    """
    if work not in WORK:
        raise InputError(f"--work must be {' or '.join(WORK)}, got {work}")
    with _service(url) as address:
        body = _body(work)
        request = _request(address, f"/v1/{work}", body)
        with http_load.connect(address) as connection:
            try:
                status, answer = http_load.exchange(connection, request)  # also the warm-up
            except (OSError, ValueError) as error:
                raise InputError(f"{address} does not answer: {error}") from None
        if status != 200:
            raise InputError(
                f"the service answered {status}: {answer[:300].decode(errors='replace')}"
            )
        times: dict[str, list[float]] = {"service": [], "echo": []}
        rates: dict[str, list[float]] = {"service": [], "echo": []}
        with http_load.echo_server(len(answer)) as echo:
            part_s = seconds / (2 * ROUNDS)
            for _ in range(ROUNDS):
                for name, target in (("service", address), ("echo", echo)):
                    sent = request if name == "service" else _request(echo, "/", body)
                    durations = http_load.measure(target, sent, num_clients, part_s)
                    times[name] += durations
                    rates[name].append(len(durations) / part_s)
    report: Report = {"url": url, "work": work, "clients": num_clients, "seconds": seconds}
    report |= {"request_bytes": len(body), "answer_bytes": len(answer)}
    for name, durations in times.items():
        report[name] = {"requests_per_s": statistics.median(rates[name])} | _percentiles(durations)
    ratio = report["service"]["requests_per_s"] / report["echo"]["requests_per_s"]
    return report | {"ratio_to_echo": ratio}


def print_report(report: Mapping[str, Any]) -> None:
    """Print the report as a table, and what it does not say."""
    out = console()
    table = new_table("", "requests a second", "p50 ms", "p95 ms", "p99 ms", left=("",))
    for name in ("service", "echo"):
        row = report[name]
        marks = [number_text(row[f"p{part}_ms"]) for part in (50, 95, 99)]
        table.add_row(name, number_text(float(f"{row['requests_per_s']:.4g}")), *marks)
    out.print(table)
    out.print(f"{report['ratio_to_echo']:.0%} of the requests a second of an echo server.")
    where = "a service that was started for it" if report["url"] is None else report["url"]
    text = f"{report['work']} at {where}: {report['clients']} connections, one request at a time "
    text += f"on each, {report['request_bytes']} bytes there and {report['answer_bytes']} back."
    out.print(text, style="label")
    text = "The clients are threads of Python on this machine: they limit the echo, and share its "
    out.print(text + "processors with a service that runs here.", style="label")


def _percentiles(durations: list[float]) -> dict[str, float]:
    if not durations:
        raise InputError("no request was answered in the time: raise --seconds")
    ordered = sorted(durations)
    last = len(ordered) - 1
    return {f"p{part}_ms": 1e3 * ordered[round(last * part / 100)] for part in (50, 95, 99)}


def _body(work: str) -> bytes:
    made = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=made)

    tensors = {"q": random(1, 1, HEADS, HEAD_DIM)}
    if work == "rotate":
        tensors["k"] = random(1, 1, KV_HEADS, HEAD_DIM)
        tensors["positions"] = torch.tensor([CONTEXT - 1])
    else:
        tensors |= {name: random(1, CONTEXT, KV_HEADS, HEAD_DIM) for name in ("k", "v")}
    params = {"rope": "llama-3.1-8b"}
    message = Message(tensors, Parameters(params, params_key(params)))
    return b"".join(safetensors_codec.encode(message))


def _request(url: str, path: str, body: bytes) -> bytes:
    parts = urlsplit(url)
    lines = [f"POST {parts.path.rstrip('/')}{path} HTTP/1.1", f"host: {parts.netloc}"]
    lines += [f"content-type: {safetensors_codec.media_type}", f"content-length: {len(body)}"]
    lines += [f"accept: {safetensors_codec.media_type}"]
    if key := os.environ.get(API_KEY, "").strip():
        lines.append(f"authorization: Bearer {key}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace") + body


@contextmanager
def _service(url: str | None) -> Iterator[str]:
    """Yield the address of the service; start one if there is none."""
    if url is not None:
        with HttpClient(url, http_load.TIMEOUT_S):  # checks the address
            yield url
        return
    ports = []
    with socket.socket() as first, socket.socket() as second:
        for each in (first, second):
            each.bind(("127.0.0.1", 0))
            ports.append(str(each.getsockname()[1]))
    command = [sys.executable, "-m", "service", "serve", "--http-port", ports[0]]
    command += ["--grpc-port", ports[1], "--log-level", "error", "--drain-delay-s", "0"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{ports[0]}"
    try:
        _await_ready(address, process)
        yield address
    finally:
        process.terminate()
        process.wait()


def _await_ready(address: str, process: "subprocess.Popen[bytes]") -> None:
    ends = time.monotonic() + START_S
    with HttpClient(address, 5.0) as client:
        while process.poll() is None and time.monotonic() < ends:
            try:
                client.get("/readyz")
            except InputError:
                time.sleep(0.1)
            else:
                return
    raise InputError("the service did not become ready; start it with rope-service serve")

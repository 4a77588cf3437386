"""The programs in examples/clients against the service, directly and through faulty proxies."""

import re
import shutil
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import ROOT

CLIENTS = ROOT / "examples" / "clients"
ROTATED = {"rotated": [0, 1, 2, 3, -2.8876166, 4.9297514, 6.607698, 7.0496492]}
ATTENDED = {
    "out": [0, 1, 2, 3, 3.7503535, 4.7503535, 5.7503535, 6.7503535],
    "lse": [0.4375, 4.0019443],
}
STEPPED = {
    "step0": [2, 3],
    "step1": [2.7858717, 3.7858717],
    "step2": [3.7606674, 4.7606674],
    "step3": [3.7606674, 4.7606674],
}


@dataclass(frozen=True)
class Tool:
    """The commands of a language, and a command that succeeds if they are installed."""

    needs: str
    run: str
    build: str = ""
    probe: str = ""
    probe_input: str = ""


@dataclass(frozen=True)
class Program:
    """A program, and the lines of numbers that it prints."""

    file: str
    tool: Tool
    prints: dict[str, list[float]]


SH = Tool("curl", "sh {file}", probe="curl --version")
NODE = Tool("Node 18", "node {file}", probe="node -", probe_input="fetch")
NODE_WITH_WEBSOCKET = Tool(
    "Node 20.10",
    "node --experimental-websocket {file}",
    probe="node --experimental-websocket -",
    probe_input="WebSocket",
)
GO = Tool("Go", "{out}", build="go build -o {out} {file}", probe="go version")
JAVA = Tool(
    "a JDK 17",
    "java -cp {out} {name}",
    build="javac --release 17 -d {out} {file}",
    probe="javac --release 17 --version",
)
CPP = Tool(
    "a C++20 compiler and libcurl's headers",
    "{out}",
    build="g++ -std=c++20 -Wall {file} -lcurl -o {out}",
    probe="g++ -std=c++20 -x c++ -fsyntax-only -",
    probe_input="#include <bit>\n#include <curl/curl.h>",
)
RUST = Tool(
    "Rust 1.58",
    "{out}",
    build="rustc {file} -o {out}",
    probe="rustc - -o {out}",
    probe_input='fn main() { let x = 1; println!("{x}"); }',
)
ROPE_CLIENT = Tool(
    "rope_client", "python {file}", probe="python -", probe_input="import rope_client"
)
TRITONCLIENT = Tool(
    "tritonclient[http]",
    "python {file}",
    probe="python -",
    probe_input="import tritonclient.http",
)

PROGRAMS = [
    Program("with_rope_client.py", ROPE_CLIENT, {**ROTATED, **ATTENDED}),
    Program("with_tritonclient.py", TRITONCLIENT, {**ROTATED, **ATTENDED}),
    Program("rope.sh", SH, ROTATED),
    Program("rope.mjs", NODE, ROTATED),
    Program("rope.go", GO, ROTATED),
    Program("Rope.java", JAVA, ROTATED),
    Program("rope.cpp", CPP, ROTATED),
    Program("rope.rs", RUST, ROTATED),
    Program("attention.sh", SH, ATTENDED),
    Program("attention.mjs", NODE, ATTENDED),
    Program("attention.go", GO, ATTENDED),
    Program("Attention.java", JAVA, ATTENDED),
    Program("attention.cpp", CPP, ATTENDED),
    Program("attention.rs", RUST, ATTENDED),
    Program("session.sh", SH, STEPPED),
    Program("session.mjs", NODE_WITH_WEBSOCKET, STEPPED),
    Program("session.go", GO, STEPPED),
    Program("Session.java", JAVA, STEPPED),
    Program("session.cpp", CPP, STEPPED),
    Program("session.rs", RUST, STEPPED),
]


def run(command: str, stdin: str = "", **paths: object) -> subprocess.CompletedProcess[str]:
    """Run a command. A missing program is reported as exit status 127."""
    words = [word.format(**paths) for word in command.split()]
    if words[0] == "python":
        words[0] = sys.executable
    if shutil.which(words[0]) is None:
        return subprocess.CompletedProcess(words, 127, "", f"no {words[0]}")
    return subprocess.run(
        words, cwd=ROOT, input=stdin, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.fixture(scope="module", params=PROGRAMS, ids=lambda program: program.file)
def program(request) -> Program:
    return request.param


@pytest.fixture(scope="module")
def run_program(program, tmp_path_factory) -> Callable[[str], subprocess.CompletedProcess[str]]:
    """Return a function that runs the program with the address of the service."""
    tool = program.tool
    file = CLIENTS / program.file
    out = tmp_path_factory.mktemp("client") / "program"
    paths = {"file": file, "out": out, "name": file.stem}
    if run(tool.probe, tool.probe_input, **paths).returncode:
        pytest.skip(f"{program.file} needs {tool.needs}")
    if tool.build:
        built = run(tool.build, **paths)
        assert built.returncode == 0, built.stderr
    return lambda url: run(f"{tool.run} {url}", **paths)


Change = Callable[[bytes], bytes]
CHUNK_BYTES = 7
CHUNK_INTERVAL_S = 0.0005
"""The pause is what the test is about: a slow network, on which chunks arrive one by one."""


@contextmanager
def proxy(
    url: str, change_request: Change = bytes, change_response: Change = bytes
) -> Iterator[str]:
    """Start a proxy that changes requests and responses; yield its address.

    It sends responses in small chunks. A change that shortens a response closes the connection.
    """
    host, port = url.removeprefix("http://").split(":")

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.create_connection((host, int(port))) as service, suppress(OSError):
                self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self.forward, args=[service], daemon=True).start()
                while received := service.recv(2**16):
                    changed = change_response(received)
                    for start in range(0, len(changed), CHUNK_BYTES):
                        self.request.sendall(changed[start : start + CHUNK_BYTES])
                        time.sleep(CHUNK_INTERVAL_S)
                    if len(changed) < len(received):
                        return

        def forward(self, service: socket.socket) -> None:
            with suppress(OSError):
                while received := self.request.recv(2**16):
                    service.sendall(change_request(received))
                service.shutdown(socket.SHUT_WR)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=[0.05], daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def check_output(done: subprocess.CompletedProcess[str], prints: dict[str, list[float]]) -> None:
    assert done.returncode == 0, done.stderr
    for name, expected in prints.items():
        (printed,) = re.findall(rf"^{name}\b(.*)", done.stdout, re.MULTILINE)
        numbers = re.findall(r"-?\d+\.?\d*", printed.rpartition(" ]")[2])
        assert [float(number) for number in numbers] == pytest.approx(expected, abs=1e-5)


def test_prints_the_expected_numbers(program, run_program, server_url):
    check_output(run_program(server_url), program.prints)


def test_reads_a_response_in_small_chunks(program, run_program, server_url):
    with proxy(server_url) as url:
        check_output(run_program(url), program.prints)


def test_shows_the_error_of_the_service(run_program, server_url):
    def misspell(request: bytes) -> bytes:
        for path in (b"/rope/infer", b"/v1/rotate", b"/v1/attention", b"/v1/sessions"):
            request = request.replace(path, path[:-1])
        return request

    with proxy(server_url, change_request=misspell) as url:
        done = run_program(url)
    assert done.returncode != 0
    assert re.search("unknown model|404", done.stderr), done.stderr


def test_detects_a_wrong_number(run_program, server_url):
    def change_number(response: bytes) -> bytes:
        return response.replace(b"\0\0@@", b"\0\0@A").replace(b'"data":[2.0,', b'"data":[9.0,')

    with proxy(server_url, change_response=change_number) as url:
        done = run_program(url)
    assert done.returncode != 0
    assert "not the numbers expected" in done.stderr


def test_detects_a_closed_connection(run_program, server_url):
    with proxy(server_url, change_response=lambda response: response[:-5]) as url:
        assert run_program(url).returncode != 0


def test_every_program_is_tested():
    files = {path.name for path in Path(CLIENTS).iterdir() if path.is_file()}
    assert files == {program.file for program in PROGRAMS}

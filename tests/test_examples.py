"""The programs in examples/clients, against the service: over a good line and over bad ones."""

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
EXPECTED = [0, 1, 2, 3, -2.8876166, 4.9297514, 6.607698, 7.0496492]


@dataclass(frozen=True)
class Program:
    """How to run one, and to see whether what it needs is there: by a command and its input."""

    file: str
    needs: str
    run: str
    build: str = ""
    probe: str = ""
    probed: str = ""


PROGRAMS = [
    Program(
        "with_rope_client.py",
        "rope_client",
        "python {file}",
        probe="python -",
        probed="import rope_client",
    ),
    Program(
        "with_tritonclient.py",
        "tritonclient[http]",
        "python {file}",
        probe="python -",
        probed="import tritonclient.http",
    ),
    Program("rope.sh", "curl", "sh {file}", probe="curl --version"),
    Program("rope.mjs", "Node 18", "node {file}", probe="node -", probed="fetch"),
    Program("rope.go", "Go", "{out}", build="go build -o {out} {file}", probe="go version"),
    Program(
        "Rope.java",
        "a JDK 17",
        "java {file}",
        probe="javac --release 17 --version",
    ),
    Program(
        "rope.cpp",
        "a C++20 compiler and libcurl's headers",
        "{out}",
        build="g++ -std=c++20 -Wall {file} -lcurl -o {out}",
        probe="g++ -std=c++20 -x c++ -fsyntax-only -",
        probed="#include <bit>\n#include <curl/curl.h>",
    ),
    Program(
        "rope.rs",
        "Rust 1.58",
        "{out}",
        build="rustc {file} -o {out}",
        probe="rustc - -o {out}",
        probed='fn main() { let here = 1; println!("{here}"); }',
    ),
]


def run(command: str, given: str = "", **places: object) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; that there is no such program is an end, too."""
    words = [word.format(**places) for word in command.split()]
    if words[0] == "python":
        words[0] = sys.executable
    if shutil.which(words[0]) is None:
        return subprocess.CompletedProcess(words, 127, "", f"no {words[0]}")
    return subprocess.run(
        words, cwd=ROOT, input=given, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.fixture(scope="module", params=PROGRAMS, ids=lambda program: program.file)
def ask(request, tmp_path_factory) -> Callable[[str], subprocess.CompletedProcess[str]]:
    """Return a function that runs the program, with the address of the service."""
    program = request.param
    places = {"file": CLIENTS / program.file, "out": tmp_path_factory.mktemp("client") / "program"}
    if run(program.probe, program.probed, **places).returncode:
        pytest.skip(f"{program.file} needs {program.needs}")
    if program.build:
        built = run(program.build, **places)
        assert built.returncode == 0, built.stderr
    return lambda url: run(f"{program.run} {url}", **places)


Change = Callable[[bytes], bytes]


@contextmanager
def line_to(url: str, ask: Change = bytes, answer: Change = bytes) -> Iterator[str]:
    """Make an address whose answers come in small pieces, and what passes is changed.

    Where a change shortens the answer, the line breaks after it.
    """
    host, port = url.removeprefix("http://").split(":")

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.create_connection((host, int(port))) as service, suppress(OSError):
                self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self.forward, args=[service], daemon=True).start()
                while told := service.recv(2**16):
                    changed = answer(told)
                    for at in range(0, len(changed), 7):
                        self.request.sendall(changed[at : at + 7])
                        time.sleep(0.0005)
                    if len(changed) < len(told):
                        return

        def forward(self, service: socket.socket) -> None:
            with suppress(OSError):
                while asked := self.request.recv(2**16):
                    service.sendall(ask(asked))
                service.shutdown(socket.SHUT_WR)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=[0.05], daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def check(ran: subprocess.CompletedProcess[str]) -> None:
    assert ran.returncode == 0, ran.stderr
    (printed,) = re.findall(r"^rotated(.*)", ran.stdout, re.MULTILINE)
    numbers = re.findall(r"-?\d+\.?\d*", printed.rpartition(" ]")[2])
    assert [float(number) for number in numbers] == pytest.approx(EXPECTED, abs=1e-5)


def test_it_prints_the_numbers(ask, server_url):
    check(ask(server_url))


def test_it_reads_what_comes_in_pieces(ask, server_url):
    with line_to(server_url) as url:
        check(ask(url))


def test_it_shows_an_error(ask, server_url):
    def mistyped(asked: bytes) -> bytes:
        return asked.replace(b"/rope/infer", b"/tope/infer").replace(b"/v1/rotate", b"/v1/totate")

    with line_to(server_url, ask=mistyped) as url:
        ran = ask(url)
    assert ran.returncode != 0
    assert re.search("unknown model 'tope'|Not Found", ran.stderr), ran.stderr


def test_it_sees_a_wrong_number(ask, server_url):
    with line_to(server_url, answer=lambda told: told.replace(b"\0\0@@", b"\0\0@A")) as url:
        ran = ask(url)
    assert ran.returncode != 0
    assert "not the numbers expected" in ran.stderr


def test_it_sees_a_broken_line(ask, server_url):
    with line_to(server_url, answer=lambda told: told[:-5]) as url:
        assert ask(url).returncode != 0


def test_every_program_is_run():
    files = {path.name for path in Path(CLIENTS).iterdir() if path.is_file()}
    assert files == {program.file for program in PROGRAMS}

"""The log never blocks the service: unread lines are buffered, then dropped and counted."""

import asyncio
import errno
import fcntl
import json
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from service.observability.line_writer import LineWriter
from service.observability.logs import JsonFormatter, render_fields
from tests.conftest import ROOT, Serve
from tests.service.test_lifecycle import metric
from tests.waiting import wait_until, wait_until_async

LINE = "x" * 99 + "\n"
SMALLEST_PIPE = 4096


class Jammed:
    """A writer to a pipe, and a reader that the test controls."""

    def __init__(self, reading: int, writing: int, max_waiting_bytes: int) -> None:
        self._reading = reading
        self.num_counted = 0
        os.set_blocking(reading, False)
        self.writer = LineWriter(writing, "{} were dropped\n".format, max_waiting_bytes)
        self.writer.on_drop = self._count
        self.received = b""

    def _count(self, num_lines: int) -> None:
        self.num_counted += num_lines

    def read(self) -> bytes:
        """Read the bytes in the pipe; return all bytes read so far."""
        while True:
            try:
                part = os.read(self._reading, 2**16)
            except BlockingIOError:
                return self.received
            if not part:
                return self.received
            self.received += part


@pytest.fixture(params=["pipe", "socket", "terminal"])
def jammed(request: pytest.FixtureRequest) -> Iterator[Jammed]:
    if request.param == "pipe":
        reading, writing = os.pipe()
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, SMALLEST_PIPE)
    elif request.param == "socket":
        reading, writing = (end.detach() for end in socket.socketpair())
    else:
        reading, writing = os.openpty()
        os.set_blocking(writing, True)
    yield Jammed(reading, writing, 100 * len(LINE))
    assert os.get_blocking(writing), "others use it, and expect it to block"
    os.close(reading)
    os.close(writing)


def fill(jammed: Jammed) -> int:
    """Write lines until some are dropped; return the number of lines."""
    num_lines = 0
    while not jammed.num_counted:
        jammed.writer.write([LINE])
        num_lines += 1
    return num_lines


def lines_of(received: bytes) -> list[str]:
    return received.decode().replace("\r\n", "\n").splitlines(keepends=True)


def test_unread_lines_are_buffered_then_dropped(jammed: Jammed):
    num_lines = fill(jammed)
    jammed.writer.write([LINE] * 7)
    assert jammed.num_counted == 8

    async def flow() -> None:
        jammed.writer.attach(asyncio.get_running_loop())

        async def has_flowed() -> bool:
            return b"dropped\n" in jammed.read().replace(b"\r", b"")

        await wait_until_async(has_flowed)
        jammed.writer.write(["after\n"])
        jammed.writer.detach()

    asyncio.run(flow())
    expected = [LINE] * (num_lines - 1) + ["8 were dropped\n", "after\n"]
    assert lines_of(jammed.read()) == expected
    assert jammed.num_counted == 8


def test_buffered_lines_are_written_at_the_end(jammed: Jammed):
    num_lines = fill(jammed)
    jammed.writer.flush(0.01)
    with ThreadPoolExecutor(1) as end:
        flushed = end.submit(jammed.writer.flush, 30)
        wait_until(lambda: flushed.done() | bool(jammed.read() and False))
    assert lines_of(jammed.read()) == [LINE] * (num_lines - 1) + ["1 were dropped\n"]


def test_lines_of_threads_are_whole():
    reading, writing = os.pipe()
    jammed = Jammed(reading, writing, 2**20)
    texts = [f"{i}" * (50 * i + 1) + "\n" for i in range(10)]

    def log(text: str) -> None:
        for _ in range(50):
            jammed.writer.write([text])

    with ThreadPoolExecutor(10) as threads:
        done = [threads.submit(log, text) for text in texts]
        wait_until(lambda: jammed.read() and all(each.done() for each in done))
    while len(jammed.read()) < 50 * sum(map(len, texts)):
        jammed.writer.flush(0.001)
    assert sorted(lines_of(jammed.received)) == sorted(text for text in texts for _ in range(50))
    os.close(reading)
    os.close(writing)


def test_a_line_longer_than_the_pipe_is_whole(jammed: Jammed):
    long = "y" * 2**18 + "\n"
    jammed.writer.write([long])
    while not jammed.read().endswith(b"\n"):
        jammed.writer.flush(0.001)
    assert lines_of(jammed.received) == [long]
    assert not jammed.num_counted


def test_the_reader_closes_the_pipe(jammed: Jammed):
    gone = os.dup(jammed._reading)
    os.close(gone)
    with open(os.devnull) as null:
        os.dup2(null.fileno(), jammed._reading)  # closes the reading end
    jammed.writer.write([LINE] * 3)
    assert jammed.num_counted == 3


def test_a_file_never_waits(tmp_path):
    with (tmp_path / "log").open("w") as file:
        writer = LineWriter(file.fileno(), str, 0)
        writer.write([LINE] * 1000)
        file.write("another writer of the same file\n")
    assert (tmp_path / "log").read_text() == LINE * 1000 + "another writer of the same file\n"


def test_no_client_can_write_terminal_control_characters():
    hostile = "".join(map(chr, [0x1B, 0x7F, 0x85, 0x9B, 0x202E, 0x2028, 0x2066, 0xFEFF])) + "\n\r"
    record = logging.makeLogRecord({"msg": hostile + "\ud800", "fields": {"path": hostile}})
    formatter = JsonFormatter()
    for line in (formatter.format(record), "{" + render_fields({"path": hostile}) + "}"):
        assert line.isascii()
        assert line.isprintable()
        assert json.loads(line)["path"] == hostile


class FullDisk:
    """Replaces `os.write` for one file, which accepts a number of bytes."""

    def __init__(self, fd: int, free_bytes: int) -> None:
        self.free_bytes = free_bytes
        self._fd = fd
        self._write = os.write

    def __call__(self, fd: int, data: bytes) -> int:
        if fd != self._fd:
            return self._write(fd, data)
        if not self.free_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        num_bytes = self._write(fd, data[: self.free_bytes])
        self.free_bytes -= num_bytes
        return num_bytes


@pytest.mark.parametrize("free_bytes", [0, 1, 250, 300])
def test_a_full_disk_is_reported_once_and_lines_are_counted(tmp_path, monkeypatch, free_bytes):
    path, failures, dropped = tmp_path / "log", [], []
    with path.open("w") as file:
        writer = LineWriter(file.fileno(), "{} were dropped\n".format, on_failure=failures.append)
        writer.on_drop = dropped.append
        disk = FullDisk(file.fileno(), free_bytes)
        monkeypatch.setattr(os, "write", disk)
        for _ in range(10):
            writer.write([LINE])
        assert [failure.errno for failure in failures] == [errno.ENOSPC]
        num_written = free_bytes // len(LINE)
        assert sum(dropped) == 10 - num_written
        disk.free_bytes = 2**20
        writer.write(["after\n"])
        writer.write(["later\n"])
    cut = ["x" * (free_bytes % len(LINE))] if free_bytes % len(LINE) else []
    expected = [LINE.rstrip()] * num_written + cut
    expected += [f"{10 - num_written} were dropped", "after", "later"]
    assert path.read_text().split("\n") == [*expected, ""]
    assert len(failures) == 1


def test_each_time_that_a_disk_is_full_is_reported(tmp_path, monkeypatch):
    failures: list[OSError] = []
    with (tmp_path / "log").open("w") as file:
        writer = LineWriter(file.fileno(), "{} were dropped\n".format, on_failure=failures.append)
        disk = FullDisk(file.fileno(), 0)
        monkeypatch.setattr(os, "write", disk)
        for _ in range(3):
            disk.free_bytes = 0
            writer.write([LINE])
            writer.write([LINE])
            disk.free_bytes = 2**20
            writer.write([LINE])
    assert len(failures) == 3
    assert (tmp_path / "log").read_text() == ("2 were dropped\n" + LINE) * 3


def test_a_service_whose_log_is_full_says_so_in_one_line_and_goes_on(serve: Serve):
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        with serve(output=full, ROPE_DRAIN_DELAY_S="0") as started:
            for _ in range(3):
                answer = httpx.post(f"{started.url}/v1/rotate", json={"q": [[[1, 2]]]})
                assert answer.status_code == 200
            dropped = metric(started.url, "rope_log_lines_dropped_total")
            assert dropped >= 6, "the lines of the start, and those of the requests"
            started.process.send_signal(signal.SIGTERM)
            assert started.process.wait(10) == 0
            (line,) = started.log.read_text().splitlines()
    finally:
        os.close(full)
    assert line.startswith("rope-service: cannot write the log to standard output: No space left")


def test_a_closed_stream_is_not_given_to_the_next_file():
    program = (
        "import os\nfor fd in (0, 1): os.close(fd)\n"
        "from service.__main__ import open_closed_streams\n"
        "open_closed_streams()\n"
        "assert os.open('/dev/zero', os.O_RDONLY) > 2\n"
        "for fd in (0, 1): assert os.readlink(f'/proc/self/fd/{fd}') == '/dev/null'\n"
    )
    command = [sys.executable, "-c", program]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stderr == "rope-service: standard output is closed: no log is written\n"

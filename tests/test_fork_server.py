"""Forked services start and end like services that a command line starts."""

import signal
import subprocess
from pathlib import Path

import httpx
import pytest

from tests.conftest import Serve
from tests.fork_server import ForkedProcess, ForkServer


def test_a_service_is_forked_only_if_the_libraries_need_no_other_variables():
    assert ForkServer.can_fork({"ROPE_THREADS": "1", "FAKE": "lost:1"})
    assert not ForkServer.can_fork({"ROPE_THREADS": "1", "OMP_NUM_THREADS": "2"})


def test_each_service_has_its_variables_and_its_log(serve: Serve):
    with serve(ROPE_LOG_LEVEL="error") as quiet, serve() as loud:
        assert isinstance(quiet.process, ForkedProcess)
        assert quiet.process.pid != loud.process.pid
        for each in (quiet, loud):
            assert httpx.get(f"{each.url}/healthz").status_code == 200
            httpx.post(f"{each.url}/v1/rotate", headers={"x-request-id": "one"})
        loud.requests_logged("one")
        assert quiet.log.read_text() == ""
        quiet.process.kill()
        assert quiet.process.wait(10) == -signal.SIGKILL
        quiet.process.kill()  # it has ended: nothing happens
        assert loud.process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            loud.process.wait(0.01)


def test_the_exit_code_of_a_failed_start_is_reported(serve: Serve, tmp_path: Path):
    with (
        pytest.raises(RuntimeError, match="rope-service: ROPE_MAX_SESSIONS must be a whole number"),
        serve(ROPE_MAX_SESSIONS="many"),
    ):
        pass
    with ForkServer() as forks, (tmp_path / "log").open("w+b") as log:
        ended = forks.start("tests.no_such_module", {}, log.fileno())
        assert ended.wait(10) == 1
        log.seek(0)
        assert b"No module named tests.no_such_module" in log.read()


def test_the_server_ends_what_it_has_forked(tmp_path: Path):
    with ForkServer() as forks, (tmp_path / "log").open("wb") as log:
        left = forks.start("service", {"ROPE_HTTP_PORT": "0"}, log.fileno())
        assert left.poll() is None
    assert left.wait(10) == -signal.SIGKILL

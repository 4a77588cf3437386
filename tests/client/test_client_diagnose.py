"""Diagnoses and comparisons over a socket, computed by the worker process of the service."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch

import rope_core
from rope_client import BadRequest, Client
from service.endpoints.rope_resolver import RopeResolver
from service.endpoints.table import ENDPOINTS
from service.wire import json_codec

DIAGNOSE = next(endpoint for endpoint in ENDPOINTS if endpoint.path == "/v1/diagnose")
ROPE = {"theta": 5e5}
BEFORE = np.random.default_rng(0).normal(size=(1, 6, 2, 8)).astype(np.float32)


@pytest.fixture(params=["safetensors", "json"])
def client(request, server_url) -> Iterator[Client]:
    with Client(server_url, encoding=request.param, timeout_s=60) as client:
        yield client


def worker_pids(server) -> list[int]:
    """Return the processes that the service has started."""
    pids = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            pid, _, rest = stat.read_text().partition(" ")
        except OSError:  # it has ended
            continue
        if int(rest.rpartition(")")[2].split()[1]) == server.process.pid:
            pids.append(int(pid))
    return pids


def test_a_diagnosis_has_types(client):
    after = client.rotate(BEFORE, rope={"theta": 1e4}).q
    found = client.diagnose(ROPE, before=BEFORE, after=after)
    assert found.verdict == "explained"
    assert found.error.first_position == 1
    assert found.error.relative > found.error.tolerance
    assert found.error.worst.index[1] > 0, "position 0 is right"
    codes = [mistake.code for mistake in found.explanations[0].mistakes]
    assert codes == ["wrong_base"]
    assert found.explanations[0].mistakes[0].parameters["theta"] == pytest.approx(1e4, rel=0.01)
    assert found.explanations[0].rope["theta"] == pytest.approx(1e4, rel=0.01)
    assert found.measured.rotary_dim == 8
    assert found.measured.unresolved_pairs == ()
    np.testing.assert_allclose(found.expected, client.rotate(BEFORE, rope=ROPE).q, atol=1e-6)
    assert found.error_by_pair.shape == (4,)
    right = client.diagnose(ROPE, before=BEFORE, after=found.expected)
    assert (right.verdict, right.explanations) == ("agrees", ())
    with pytest.raises(BadRequest, match="causal must be absent"):
        client.diagnose(ROPE, before=BEFORE, after=after, causal=True)


def test_a_comparison_has_types(client):
    found = client.compare({"head_dim": 8}, {"theta": 5e5})
    library = rope_core.compare({"head_dim": 8}, {"theta": 5e5})
    assert (found.summary, found.same, found.first_position) == (
        library.summary,
        False,
        library.first_position,
    )
    assert [each.parameter for each in found.differences] == ["theta"]
    assert (found.differences[0].rope, found.differences[0].other) == (1e4, 5e5)
    assert [each.position for each in found.angles] == [each.position for each in library.angles]
    np.testing.assert_array_equal(found.inv_freq, library.tensors["inv_freq"])
    np.testing.assert_array_equal(found.inv_freq_other, library.tensors["inv_freq_other"])


def test_the_worker_answers_as_the_library_does_and_survives(server):
    after = rope_core.rotate(torch.from_numpy(BEFORE), rope={"theta": 1e4})
    body = {"before": BEFORE.tolist(), "after": after.tolist(), "rope": ROPE}
    with httpx.Client(base_url=server.url, timeout=60) as http:
        answer = http.post("/v1/diagnose", json=body)
        message = json_codec.decode(answer.request.content).message
        (text,) = json_codec.encode(DIAGNOSE.read(message, RopeResolver({})))
        assert answer.content == bytes(text)
        assert "compute;dur=" in answer.headers["server-timing"]
        (pid,) = worker_pids(server)
        assert os.getpriority(os.PRIO_PROCESS, pid) == 19
        for number in (signal.SIGINT, signal.SIGTERM):  # of a terminal, of a process manager
            os.kill(pid, number)
        late = http.post("/v1/diagnose", json=body, headers={"x-request-timeout-ms": "1"})
        assert late.status_code in (503, 504)
        assert http.post("/v1/diagnose", json=body).content == answer.content
        assert worker_pids(server) == [pid], "it is the same process"

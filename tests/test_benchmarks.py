"""The benchmarks run, compare before they time, and print a table; the times mean nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import forms, h2load, load, oracle, workloads
from benchmarks.workloads import WORKLOADS
from service.wire import safetensors_codec as wire

ROOT = Path(__file__).parents[1]


def run(module, *arguments):
    command = [sys.executable, "-m", f"benchmarks.{module}", "--quick", *arguments]
    environment = {n: v for n, v in os.environ.items() if n != "TRITON_INTERPRET"}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )


def rows_of(printed):
    return [line for line in printed.splitlines() if line.startswith("| ")][1:]


def test_core_prints_a_row_for_each_case(tmp_path):
    ran = run("core", "--json", str(tmp_path / "core.json"))

    assert ran.returncode == 0, ran.stderr
    written = json.loads((tmp_path / "core.json").read_text())
    assert len(rows_of(ran.stdout)) == len(written["rows"]) > 10
    assert written["machine"]["torch"] == torch.__version__
    assert all(row["x_floor"] > 0 for row in written["rows"])


def test_a_launch_takes_few_functions_on_the_host():
    """Each is some 0.1 to 0.2 us of the time for which a GPU waits; time itself is not asserted."""
    pytest.importorskip("triton")
    ran = run("host_time")

    assert ran.returncode == 0, ran.stderr
    cells = [row.strip("| ").split(" | ") for row in rows_of(ran.stdout)]
    functions = {name: int(number) for name, _, number, _ in cells}
    assert functions["rotary.rotate, 4 tokens of 32 + 8 heads of 128"] <= 55
    assert functions["attention.attend, decode of 1 sequence"] <= 150


@pytest.mark.skipif(load.missing() is not None, reason=str(load.missing()))
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_service_prints_a_row_for_a_workload(tmp_path):
    ran = run("service", "--only", WORKLOADS[0].name, "--json", str(tmp_path / "service.json"))

    assert ran.returncode == 0, ran.stderr
    (printed,) = rows_of(ran.stdout)
    (row,) = json.loads((tmp_path / "service.json").read_text())["rows"]
    assert printed.startswith(f"| {row['workload']} |")
    expected = row["rate"] * (row["t_torch_us"] + row["t_echo_us"]) / 1e6
    assert row["eta"] == pytest.approx(expected)


@pytest.mark.skipif(h2load.missing() is not None, reason=str(h2load.missing()))
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_protocol_prints_a_row_for_each_form(tmp_path):
    name = forms.WORKLOADS[0].name
    ran = run("protocol", "--only", name, "--json", str(tmp_path / "protocol.json"))

    assert ran.returncode == 0, ran.stderr
    rows = json.loads((tmp_path / "protocol.json").read_text())["rows"]
    named = ["HTTP echo", "gRPC echo", "/v1 safetensors", "/v2 binary", "gRPC"]
    assert [row["workload"] for row in rows] == [f"{name}, {each}" for each in named]
    assert len(rows_of(ran.stdout)) == len(rows)
    assert all(0 < row["x_http_echo_cpu"] <= 1.5 for row in rows)


@pytest.mark.parametrize("workload", forms.WORKLOADS, ids=lambda workload: workload.name)
def test_every_form_asks_for_the_same(workload):
    native, binary, grpc = forms.forms(workload)
    length = int(binary.headers["Inference-Header-Content-Length"])
    blobs = binary.body[length:]
    asked = forms.INFER.request.FromString(grpc.body[5:])
    assert grpc.body == forms.framed(grpc.body[5:])
    assert b"".join(asked.raw_input_contents) == blobs
    tensors = workloads.tensors(workload, workload.lengths[0])
    for each in tensors.values():
        assert each.numpy().tobytes() in blobs
        assert each.numpy().tobytes() in native.body


@pytest.mark.parametrize("workload", WORKLOADS[:2], ids=lambda workload: workload.name)
def test_a_wrong_answer_ends_it_before_it_is_timed(workload):
    length = workload.lengths[0]
    asked = workloads.tensors(workload, length)
    name = "out" if workload.kv_heads else "q"
    answer = b"".join(wire.encode(wire.Message({name: asked["q"]})))

    with pytest.raises(SystemExit, match="wrong, so not timed"):
        workloads.check(workload, length, answer)


@pytest.mark.parametrize("workload", WORKLOADS[:2], ids=lambda workload: workload.name)
def test_the_bare_call_does_the_work_of_the_request(workload):
    length = workload.lengths[0]
    got = workloads.bare_call(workload, length, 1)()

    name = "out" if workload.kv_heads else "q"
    answer = b"".join(wire.encode(wire.Message({name: got.contiguous()})))
    workloads.check(workload, length, answer)


def test_a_batch_is_each_of_its_calls():
    tiny = WORKLOADS[0]
    (alone, *_), batched = workloads.bare_call(tiny, 16, 1)(), workloads.bare_call(tiny, 16, 16)()

    assert len(batched) == 16
    for got in batched:
        oracle.check("batched", got[0], alone.double())

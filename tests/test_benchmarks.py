"""The benchmarks run, check results before they time, and print tables. Times are not checked."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import encodings, h2load, oracle, workloads, wrk
from benchmarks.workloads import WORKLOADS
from service.wire import Message
from service.wire import safetensors_codec as codec

ROOT = Path(__file__).parents[1]


def run(module, *arguments):
    command = [sys.executable, "-m", f"benchmarks.{module}", "--quick", *arguments]
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )


def table_rows(printed):
    return [line for line in printed.splitlines() if line.startswith("| ")][1:]


def test_core_prints_a_row_for_each_case(tmp_path):
    done = run("core", "--json", str(tmp_path / "core.json"))

    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "core.json").read_text())
    assert len(table_rows(done.stdout)) == len(report["rows"]) > 10
    assert report["machine"]["torch"] == torch.__version__
    assert all(row["x_floor"] > 0 for row in report["rows"])


def test_launch_calls_few_functions_on_the_host():
    """A function call costs 0.1 to 0.2 us of host time. The time itself is not asserted."""
    pytest.importorskip("triton")
    done = run("host_time")

    assert done.returncode == 0, done.stderr
    cells = [row.strip("| ").split(" | ") for row in table_rows(done.stdout)]
    functions = {name: int(number) for name, _, number, _ in cells}
    assert functions["rotary.rotate, 4 tokens of 32 + 8 heads of 128"] <= 55
    assert functions["attention.attend, decode of 1 sequence"] <= 150


@pytest.mark.skipif(wrk.missing_programs() is not None, reason=str(wrk.missing_programs()))
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_service_prints_a_row_for_a_workload(tmp_path):
    done = run("service", "--only", WORKLOADS[0].name, "--json", str(tmp_path / "service.json"))

    assert done.returncode == 0, done.stderr
    (printed,) = table_rows(done.stdout)
    (row,) = json.loads((tmp_path / "service.json").read_text())["rows"]
    assert printed.startswith(f"| {row['workload']} |")
    expected = row["rate"] * (row["t_torch_us"] + row["t_echo_us"]) / 1e6
    assert row["eta"] == pytest.approx(expected)


@pytest.mark.skipif(h2load.missing_programs() is not None, reason=str(h2load.missing_programs()))
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_protocol_prints_a_row_for_each_protocol(tmp_path):
    name = encodings.WORKLOADS[0].name
    done = run("protocol", "--only", name, "--json", str(tmp_path / "protocol.json"))

    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "protocol.json").read_text())["rows"]
    protocols = ["HTTP echo", "gRPC echo", "/v1 safetensors", "/v2 binary", "gRPC"]
    assert [row["workload"] for row in rows] == [f"{name}, {protocol}" for protocol in protocols]
    assert len(table_rows(done.stdout)) == len(rows)
    assert all(0 < row["x_http_echo_cpu"] <= 1.5 for row in rows)


@pytest.mark.parametrize("workload", encodings.WORKLOADS, ids=lambda workload: workload.name)
def test_all_protocols_encode_the_same_tensors(workload):
    native, binary, grpc = encodings.encode(workload)
    json_length = int(binary.headers["Inference-Header-Content-Length"])
    binary_tensors = binary.body[json_length:]
    message = grpc.body[encodings.GRPC_PREFIX_BYTES :]
    assert grpc.body == encodings.grpc_frame(message)
    request = encodings.INFER.request.FromString(message)
    assert b"".join(request.raw_input_contents) == binary_tensors
    for tensor in workloads.tensors(workload, workload.lengths[0]).values():
        assert tensor.numpy().tobytes() in binary_tensors
        assert tensor.numpy().tobytes() in native.body


@pytest.mark.parametrize("workload", WORKLOADS[:2], ids=lambda workload: workload.name)
def test_wrong_response_ends_the_benchmark(workload):
    length = workload.lengths[0]
    inputs = workloads.tensors(workload, length)
    name = "out" if workload.kv_heads else "q"
    body = b"".join(codec.encode(Message({name: inputs["q"]})))

    with pytest.raises(SystemExit, match="wrong, so not timed"):
        workloads.check_body(workload, length, body)


@pytest.mark.parametrize("workload", WORKLOADS[:2], ids=lambda workload: workload.name)
def test_plain_torch_does_the_work_of_the_request(workload):
    length = workload.lengths[0]
    out = workloads.torch_call(workload, length, 1)()

    name = "out" if workload.kv_heads else "q"
    body = b"".join(codec.encode(Message({name: out.contiguous()})))
    workloads.check_body(workload, length, body)


def test_batch_in_plain_torch_equals_single_calls():
    workload = WORKLOADS[0]
    (single,) = workloads.torch_call(workload, 16, 1)()
    batch = workloads.torch_call(workload, 16, 16)()

    assert len(batch) == 16
    for out in batch:
        oracle.check("batch", out[0], single.double())

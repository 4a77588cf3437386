"""The benchmarks run, check results before they time, and print tables. Times are not checked."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import (
    encodings,
    h2load,
    in_process,
    load,
    oracle,
    overload,
    protocol,
    service,
    sessions,
    table,
    workloads,
)
from benchmarks.encodings import ENCODERS, GRPC_PREFIX_BYTES
from benchmarks.peers import __main__ as peers
from benchmarks.peers import functions
from benchmarks.peers.peer import PEERS
from benchmarks.peers.rounds import PeerBenchmark
from benchmarks.workloads import BY_NAME, S64, TINY

ROOT = Path(__file__).parents[1]


def run(module, *arguments):
    command = [sys.executable, "-m", f"benchmarks.{module}", "--quick", *arguments]
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )


@pytest.fixture
def run_here(monkeypatch, capsys):
    """Run the main function of a benchmark in this process, which has imported torch already."""
    monkeypatch.setattr(os, "sched_setaffinity", lambda *_: None)

    def run_main(module, *arguments):
        monkeypatch.setattr(sys, "argv", [module.__name__, "--quick", *arguments])
        module.main()
        return capsys.readouterr().out

    return run_main


def table_rows(printed):
    return [line for line in printed.splitlines() if line.startswith("| ")][1:]


def test_parts_of_a_planned_request_have_a_row_each():
    done = run("planned_parts")

    assert done.returncode == 0, done.stderr
    assert len(table_rows(done.stdout)) == 7


def test_calls_in_process_and_of_the_service_have_a_row_each(run_here):
    assert len(table_rows(run_here(in_process))) == 6


def test_core_prints_a_row_for_each_case(tmp_path):
    done = run("core", "--json", str(tmp_path / "core.json"))

    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "core.json").read_text())
    assert len(table_rows(done.stdout)) == len(report["rows"]) > 10
    assert report["machine"]["torch"] == torch.__version__
    assert all(row["x_floor"] > 0 for row in report["rows"])


def test_sessions_print_each_table(tmp_path, run_here):
    report = tmp_path / "sessions.json"
    out = run_here(sessions, "--json", str(report))

    rows = json.loads(report.read_text())["rows"]
    calls = [row["call"] for row in rows if "CPU us" in row]
    assert calls == ["stateless", "in process", "WebSocket echo", "WebSocket", "HTTP echo", "HTTP"]
    assert all(row["CPU us"] > 0 for row in rows if "CPU us" in row)
    assert len(table_rows(out)) >= len(rows) > 10
    assert [row["own bytes"] for row in rows if row["call"] == "fork"] == [0]


def test_launch_calls_few_functions_on_the_host():
    """A function call costs 0.1 to 0.2 us of host time. The time itself is not asserted."""
    pytest.importorskip("triton")
    done = run("host_time")

    assert done.returncode == 0, done.stderr
    cells = [row.strip("| ").split(" | ") for row in table_rows(done.stdout)]
    functions = {name: int(number) for name, _, number, _ in cells}
    assert functions["rotary.rotate, 4 tokens of 32 + 8 heads of 128"] <= 55
    assert functions["attention.attend, decode of 1 sequence"] <= 150


needs_load = pytest.mark.skipif(
    load.missing_programs() is not None, reason=str(load.missing_programs())
)
needs_h2load = pytest.mark.skipif(
    h2load.missing_programs() is not None, reason=str(h2load.missing_programs())
)
needs_two_cores = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")


@needs_load
@needs_two_cores
def test_service_prints_rows_for_a_workload(tmp_path, run_here):
    name, report = "rotate [1,16,8,64], /v2", tmp_path / "service.json"
    out = run_here(service, "--only", name, "--against", str(ROOT), "--json", str(report))

    (row,) = json.loads(report.read_text())["rows"]
    printed = [line for line in table_rows(out) if line.startswith(f"| {name}, 8 |")]
    assert len(printed) == 2, "ratios and microseconds"
    expected = row["rate"] * (row["t_torch_us"] + row["t_echo_us"]) / 1e6
    assert row["eta"] == pytest.approx(expected)
    parts = row["kernel_us"] + row["torch_cpu_us"] + row["rest_us"]
    assert row["cpu_us"] == pytest.approx(parts)
    assert row["least"] > 0
    assert row["x_other"] > 0


@needs_load
@needs_two_cores
def test_overload_prints_bars_of_a_profile(tmp_path, run_here):
    report = tmp_path / "overload.json"
    out = run_here(overload, "--only", "slow writers", "--json", str(report))

    capacity, alone, beside = json.loads(report.read_text())["rows"]
    assert len(table_rows(out)) == 3
    assert capacity["goodput"] > 0
    for row in (alone, beside):
        answered = sum(row["statuses"].values())
        unanswered = sum(row[name] for name in ("dropped", "not_connected", "ended", "timed_out"))
        assert row["offered"] == answered + unanswered > 0
        assert row["in_deadline"] <= row["statuses"].get("200", 0)
        assert row["peak_mib"] > 0
        assert {"health", "memory", "answers"} <= {*row["bars"]}
    assert "goodput >= 0.95 of offered" in beside["bars"]
    assert beside["slow_longest_s"] > 0


@needs_load
@needs_h2load
@needs_two_cores
def test_peers_print_a_table_of_ratios_and_what_failed(tmp_path, run_here):
    report = tmp_path / "peers.json"
    out = run_here(peers, "--only", "orjson", "--json", str(report))

    (row,) = json.loads(report.read_text())["rows"]
    assert row["x"] == pytest.approx(row["rate"] / row["peer_rate"])
    assert table_rows(out)[-1] == f"| FastAPI + orjson | {table.format_cell(row['x'])} |"


def test_peer_that_does_not_start_is_a_row_with_the_reason():
    peer = replace(PEERS[0], module="absent")
    bench = PeerBenchmark(min(os.sched_getaffinity(0)), 0, 1, quick=True)
    rows = [*bench.rows(peer)]

    assert [(row["peer"], row["workload"]) for row in rows] == [(peer.name, "")]
    assert "No module named benchmarks.peers.absent" in rows[0]["failed"]


@needs_h2load
@needs_two_cores
def test_protocol_prints_a_row_for_each_protocol(tmp_path, run_here):
    name, report = protocol.WORKLOADS[0].name, tmp_path / "protocol.json"
    out = run_here(protocol, "--only", name, "--json", str(report))

    rows = json.loads(report.read_text())["rows"]
    protocols = ["HTTP echo", "gRPC echo", "/v1 safetensors", "/v2 binary", "gRPC"]
    assert [row["workload"] for row in rows] == [f"{name}, {protocol}" for protocol in protocols]
    assert len(table_rows(out)) == len(rows)
    floors, services = rows[:2], rows[2:]
    assert all(0 < row["x_http_echo_cpu"] <= 1.5 for row in floors)
    assert all(0 < row["x_http_echo_cpu"] <= 4 for row in services), "planned: may beat the echo"


@pytest.mark.parametrize("workload", [TINY, S64], ids=lambda workload: workload.name)
def test_all_protocols_encode_the_same_tensors(workload):
    length = workload.lengths[0]
    native, text, binary, grpc = (encode(workload, length) for encode in ENCODERS.values())
    json_length = int(binary.headers["Inference-Header-Content-Length"])
    binary_tensors = binary.body[json_length:]
    message = grpc.body[GRPC_PREFIX_BYTES:]
    assert grpc.body == encodings.grpc_frame(message)
    request = encodings.INFER.request.FromString(message)
    assert b"".join(request.raw_input_contents) == binary_tensors
    for name, tensor in workloads.tensors(workload, length).items():
        assert tensor.numpy().tobytes() in binary_tensors
        assert tensor.numpy().tobytes() in native.body
        assert torch.tensor(json.loads(text.body)[name]).equal(tensor)


def test_request_has_its_head():
    request = ENCODERS["/v2 binary"](TINY, 16)
    head, _, body = request.http().partition(b"\r\n\r\n")
    assert body == request.body
    assert head.startswith(b"POST /v2/models/rope/infer HTTP/1.1\r\n")
    assert f"Content-Length: {len(body)}".encode() in head.split(b"\r\n")


@pytest.mark.parametrize("workload", [TINY, S64], ids=lambda workload: workload.name)
def test_wrong_output_ends_the_benchmark(workload):
    length = workload.lengths[0]
    inputs = workloads.tensors(workload, length)

    with pytest.raises(SystemExit, match="wrong, so not timed"):
        workloads.check(workload, length, inputs["q"])


@pytest.mark.parametrize("workload", [TINY, S64], ids=lambda workload: workload.name)
def test_plain_torch_does_the_work_of_the_request(workload):
    length = workload.lengths[0]
    workloads.check(workload, length, workloads.torch_call(workload, length, 1)())


@pytest.mark.parametrize("workload", [TINY, S64], ids=lambda workload: workload.name)
def test_peers_compute_the_work_of_the_request(workload):
    length = workload.lengths[0]
    raw = PEERS[0].encode(workload, length)
    tensors = functions.read_raw(bytearray(raw.body))

    for count in (1, 3):
        for out in functions.compute_batch([tensors] * count):
            workloads.check(workload, length, raw.decode(out.numpy().tobytes()))
    shorter = functions.read_raw(bytearray(PEERS[0].encode(workload, 4).body))
    outputs = functions.compute_batch([tensors, shorter])
    assert [out.shape[1] for out in outputs] == [length, 4]


def test_peers_have_known_workloads():
    assert {name for peer in PEERS for name in peer.workloads} <= {*BY_NAME}


def test_batch_in_plain_torch_equals_single_calls():
    (single,) = workloads.torch_call(TINY, 16, 1)()
    batch = workloads.torch_call(TINY, 16, 16)()

    assert len(batch) == 16
    for out in batch:
        oracle.check("batch", out[0], single.double())

"""Decisions about an NVIDIA GPU, tested without one: stand-ins replace torch's functions."""

import os
import re
from pathlib import Path

import pytest
import torch

from service import __main__
from service.device import find_driver
from service.device.cuda import Cuda
from service.lifecycle import Lifecycle
from service.server import bootstrap
from service.settings import Settings
from tests.service.fake_driver import FakeDriver

TOO_OLD = "The NVIDIA driver on your system is too old (found version 12020)."


@pytest.fixture
def control_file(tmp_path: Path) -> Path:
    file = tmp_path / "nvidiactl"
    file.touch()
    return file


@pytest.fixture
def torch_with_old_driver(monkeypatch):
    """A torch that is built with CUDA, and finds an NVIDIA driver that is too old."""

    def init() -> None:
        raise RuntimeError(f"{TOO_OLD}\nPlease update your GPU driver")

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "init", init)


@pytest.mark.parametrize("setting", ["auto", "cuda"])
def test_a_gpu_that_torch_cannot_use_stops_the_start_with_the_reason(
    torch_with_old_driver, control_file, setting
):
    text = (
        rf"torch {re.escape(torch.__version__)} was built for CUDA 13.0.* too old .*Please update"
    )
    with pytest.raises(SystemExit, match=text):
        find_driver(setting, control_file)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun Jul 27\n",
            "the NVIDIA driver has version 580.65.06",
        ),
        (None, "no NVIDIA driver is visible here"),
    ],
)
def test_no_gpu_tells_the_build_the_driver_and_what_to_do(
    monkeypatch, torch_with_old_driver, tmp_path, content, says
):
    file = tmp_path / "version"
    if content is not None:
        file.write_text(content)
    with pytest.raises(SystemExit) as ended:
        find_driver("cuda", tmp_path / "none", file)
    text = str(ended.value)
    assert "was built for CUDA 13.0" in text
    assert says in text
    assert "--gpus all" in text
    assert "ROPE_DEVICE=auto" in text
    assert "\n" not in text


def test_a_torch_built_without_cuda_stops_the_start_beside_a_gpu(monkeypatch, control_file):
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match=r"built without CUDA.*ROPE_DEVICE=cpu"):
        find_driver("auto", control_file)


def test_the_cpu_serves_if_it_is_set_or_if_there_is_no_gpu(torch_with_old_driver, control_file):
    assert find_driver("cpu", control_file) is None
    assert find_driver("auto", control_file.with_name("none")) is None


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("Triton Error [CUDA]: out of memory", True),
        ("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED", True),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", True),
        ("CUDA out of memory. Tried to allocate 2.00 GiB", True),
        ("CUDA error: an illegal memory access was encountered", False),
        ("Triton Error [CUDA]: invalid argument", False),
        ("out of resource: shared memory, Required: 135168", False),
    ],
)
def test_full_memory_is_recognised_by_the_message_of_each_library(text, full):
    driver = object.__new__(Cuda)  # the constructor initialises CUDA
    assert driver.is_full(RuntimeError(text)) is full


def test_full_memory_is_recognised_by_the_error_code_of_cuda():
    failure = RuntimeError("CUDA error")
    failure.error_code = 2
    assert object.__new__(Cuda).is_full(failure)


@pytest.mark.parametrize(
    ("driver", "settings", "threads"),
    [
        (FakeDriver(), {}, 4),
        (FakeDriver(), {"threads": 7}, 7),
        (None, {}, 64),
        (None, {"threads": 3}, 3),
    ],
)
def test_torch_uses_few_cpu_threads_beside_a_gpu(monkeypatch, driver, settings, threads):
    monkeypatch.delenv("ROPE_THREADS", raising=False)
    monkeypatch.setattr(bootstrap.cgroup, "num_cpus", lambda: 64)
    num_threads = []
    monkeypatch.setattr(torch, "set_num_threads", num_threads.append)
    bootstrap.build_service(Settings(device="cpu", **settings), Lifecycle(), driver)
    assert num_threads == [threads]


@pytest.mark.parametrize("name", ["PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"])
@pytest.mark.parametrize("preset", [None, "max_split_size_mb:64"])
def test_the_allocator_uses_expandable_segments_unless_the_operator_configures_it(
    monkeypatch, name, preset
):
    for variable in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "GLIBC_TUNABLES"):
        monkeypatch.delenv(variable, raising=False)
    if preset is not None:
        monkeypatch.setenv(name, preset)
    environments: list[dict[str, str]] = []

    def replace_process(*_: object) -> None:
        environments.append({**os.environ})
        raise SystemExit(0)

    monkeypatch.setattr(os, "execv", replace_process)
    monkeypatch.setattr("sys.argv", ["rope-service"])
    with pytest.raises(SystemExit):
        __main__.main()
    (environment,) = environments
    monkeypatch.delenv("GLIBC_TUNABLES")  # which main has set
    monkeypatch.delenv("PYTORCH_ALLOC_CONF", raising=False)
    configured = {n: v for n, v in environment.items() if n.endswith("ALLOC_CONF")}
    expected = {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}
    assert configured == (expected if preset is None else {name: preset})

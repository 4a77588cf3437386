"""The GPU and the software of a run."""

import subprocess
import time
from datetime import date

import torch

from benchmarks import table
from benchmarks.gpu_cases import kernels, packages
from benchmarks.table import Row

WARM_UP_S = 1.0


def software_versions() -> Row:
    """Return the date and the versions of torch and triton; needs no GPU."""
    return {"date": date.today().isoformat(), **table.versions("torch", "triton")}


def describe() -> Row:
    """Return the GPU, its clock after a warm-up, and the versions of the compared libraries."""
    warm_up()
    properties = torch.cuda.get_device_properties(0)
    return {
        **software_versions(),
        "gpu": properties.name,
        "multiprocessors": properties.multi_processor_count,
        "l2_mb": properties.L2_cache_size / 1e6,
        **query_nvidia_smi("driver_version", "clocks.sm", "clocks.max.sm"),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        **packages.describe(),
    }


def query_nvidia_smi(*fields: str) -> Row:
    """Return fields of `nvidia-smi --query-gpu`; empty if the program is missing or fails."""
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader", "--id=0"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(zip(fields, map(str.strip, done.stdout.split(",")), strict=False))


def launch_error() -> str | None:
    """Launch one kernel. Return the error, or None if the launch succeeded.

    Triton compiles its launcher at the first launch, so without a C compiler every call fails.
    """
    x = torch.zeros(1, 1, 16, device="cuda")
    position, inv_freq = torch.zeros(1, device="cuda"), torch.zeros(8, device="cuda").double()
    try:
        kernels.rotate_at([x], [x], position, inv_freq, "half")()
        torch.cuda.synchronize()
    except Exception as exc:  # a launch may raise anything
        return f"{type(exc).__name__}: {exc}"
    return None


def warm_up() -> None:
    """Multiply matrices until the GPU has raised its clock."""
    x = torch.randn(4096, 4096, device="cuda").bfloat16()
    deadline = time.monotonic() + WARM_UP_S
    while time.monotonic() < deadline:
        for _ in range(20):
            x @ x
        torch.cuda.synchronize()

"""What is measured on."""

import subprocess
import time
from datetime import date

import torch

from benchmarks import table
from benchmarks.gpu_cases import kernels, packages
from benchmarks.table import Row

WARM_S = 1.0


def without() -> Row:
    """Return what there is without a card."""
    return {"date": date.today().isoformat(), **table.versions("torch", "triton")}


def found() -> Row:
    """Return the card, its clock when it is warm, and the libraries to compare with."""
    warm()
    properties = torch.cuda.get_device_properties(0)
    return {
        **without(),
        "gpu": properties.name,
        "multiprocessors": properties.multi_processor_count,
        "l2_mb": properties.L2_cache_size / 1e6,
        **smi("driver_version", "clocks.sm", "clocks.max.sm"),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        **packages.found(),
    }


def smi(*names: str) -> Row:
    """Return what nvidia-smi says, if it does."""
    command = ["nvidia-smi", f"--query-gpu={','.join(names)}", "--format=csv,noheader", "--id=0"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(zip(names, map(str.strip, said.stdout.split(",")), strict=False))


def why_no_launch() -> str | None:
    """Return why no kernel can be launched here, None where one was.

    Triton compiles its own launcher at the first launch, so a missing C compiler fails every call.
    """
    x = torch.zeros(1, 1, 16, device="cuda")
    position, inv_freq = torch.zeros(1, device="cuda"), torch.zeros(8, device="cuda").double()
    try:
        kernels.rotate_at([x], [x], position, inv_freq, "half")()
        torch.cuda.synchronize()
    except Exception as why:  # a launch may raise anything
        return f"{type(why).__name__}: {why}"
    return None


def warm() -> None:
    """Multiply until the clocks are up."""
    x = torch.randn(4096, 4096, device="cuda").bfloat16()
    until = time.monotonic() + WARM_S
    while time.monotonic() < until:
        for _ in range(20):
            x @ x
        torch.cuda.synchronize()

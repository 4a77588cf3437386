"""An NVIDIA GPU, driven by torch. No decisions: tests without a GPU cannot cover this file."""

import re
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import torch
from torch import Tensor

from service.device.interface import Driver

OUT_OF_MEMORY = 2
"""cudaErrorMemoryAllocation, the error code of allocators other than torch's."""

CONTROL_FILE = Path("/dev/nvidiactl")
"""Exists if NVIDIA's driver has given this system or container a GPU."""

DRIVER_FILE = Path("/proc/driver/nvidia/version")
"""Names the version of NVIDIA's driver, if one is loaded."""


def find_driver(
    setting: str, control_file: Path = CONTROL_FILE, driver_file: Path = DRIVER_FILE
) -> Driver | None:
    """Return the driver of the device; None for the CPU, which needs none.

    Args:
        setting: the setting `device`: `auto`, `cpu` or `cuda`.
        control_file: exists if the system has an NVIDIA GPU.
        driver_file: names the version of the driver.

    Raises:
        SystemExit: torch cannot use a GPU, although `cuda` is set, or `auto` beside a GPU.
    """
    if setting == "cpu":
        return None
    if torch.cuda.is_available():
        return Cuda()
    if setting == "auto" and not control_file.exists():
        return None
    why = _why_no_gpu(driver_file)
    if setting == "cuda":
        raise SystemExit(
            f"rope-service: ROPE_DEVICE is cuda, but torch finds no GPU: {why}. Start a Docker "
            "container with --gpus all. ROPE_DEVICE=auto serves on the CPU where there is no GPU"
        )
    raise SystemExit(
        f"rope-service: there is an NVIDIA GPU, but torch cannot use it: {why}. "
        "Set ROPE_DEVICE=cpu to serve on the CPU"
    )


def _why_no_gpu(driver_file: Path) -> str:
    """Return what torch was built for, the version of the driver, and torch's reason; one line."""
    version = torch.__version__
    if torch.version.cuda is None:
        reason = f"torch {version} was built without CUDA"
    else:
        reason = f"torch {version} was built for CUDA {torch.version.cuda}"
        try:
            torch.cuda.init()  # type: ignore[no-untyped-call]
        except Exception as failure:
            reason += f", and says: {' '.join(str(failure).split())}"
    return f"{reason}; {_driver(driver_file)}"


def _driver(driver_file: Path) -> str:
    try:
        match = re.search(r"\d+\.\d[\d.]*", driver_file.read_text())
    except OSError:
        return f"no NVIDIA driver is visible here (no {driver_file})"
    return f"the NVIDIA driver has version {match[0] if match else 'unknown'}"


class Cuda:
    """The current CUDA device."""

    def __init__(self) -> None:
        torch.cuda.init()  # type: ignore[no-untyped-call]
        self.device = torch.device("cuda")
        self._runtime = torch.cuda.cudart()  # type: ignore[no-untyped-call]

    def pin(self, address: int, num_bytes: int) -> bool:
        """Register memory with CUDA. Returns False if the system refuses."""
        if int(self._runtime.cudaHostRegister(address, num_bytes, 0)) == 0:
            return True
        with suppress(RuntimeError):  # take CUDA's error, which the next call would report
            torch.zeros(1, device=self.device)
        return False

    def unpin(self, address: int) -> None:
        """Undo `pin`."""
        self._runtime.cudaHostUnregister(address)

    @property
    def total_memory_bytes(self) -> int:
        """The memory of the GPU."""
        return torch.cuda.get_device_properties(self.device).total_memory

    def stream(self) -> torch.Stream:
        """Return a new stream."""
        return torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def on(self, stream: torch.Stream) -> AbstractContextManager[None]:
        """Make the stream this thread's current one."""
        return torch.cuda.stream(stream)  # type: ignore[arg-type]

    def event(self) -> torch.Event:
        """Return a timed event. A thread that waits for the event sleeps."""
        return torch.cuda.Event(enable_timing=True, blocking=True)  # type: ignore[no-untyped-call]

    def empty(self, num_bytes: int) -> Tensor:
        """Return memory of the current stream in torch's cache: uint8 `[num_bytes]`."""
        return torch.empty(num_bytes, dtype=torch.uint8, device=self.device)

    def copy(self, to: Tensor, source: Tensor) -> None:
        """Enqueue a copy."""
        to.copy_(source, non_blocking=True)

    def is_full(self, failure: Exception) -> bool:
        """Recognise what torch, CUDA, Triton, cuBLAS and cuDNN raise when memory runs out."""
        # Triton: "Triton Error [CUDA]: out of memory"; cuBLAS and cuDNN 8: ..._STATUS_ALLOC_FAILED;
        # cuDNN 9: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED
        text = str(failure)
        is_allocation = "out of memory" in text.lower() or "ALLOC" in text
        has_code = getattr(failure, "error_code", None) == OUT_OF_MEMORY
        return is_allocation or has_code or isinstance(failure, torch.OutOfMemoryError)

    def empty_cache(self) -> None:
        """Release the memory that torch caches."""
        torch.cuda.empty_cache()

    def synchronize(self) -> None:
        """Wait for all streams."""
        torch.cuda.synchronize(self.device)

    def memory_bytes(self) -> int:
        """Return the bytes of all tensors."""
        return torch.cuda.memory_allocated(self.device)

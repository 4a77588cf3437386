"""Where calls are computed: on the CPU, or on a GPU by way of a thin driver."""

from service.device.accelerator import Accelerator
from service.device.cpu import Cpu
from service.device.cuda import find_driver
from service.device.interface import Device, Driver
from service.kernel_builds.builder import KernelBuilder

__all__ = ["Accelerator", "Cpu", "Device", "Driver", "KernelBuilder", "find_driver"]

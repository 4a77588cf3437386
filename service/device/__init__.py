"""Devices that compute calls: the CPU, or an accelerator behind a driver."""

from service.device.accelerator import Accelerator
from service.device.cpu import Cpu
from service.device.cuda import find_driver
from service.device.interface import Device, Driver

__all__ = ["Accelerator", "Cpu", "Device", "Driver", "find_driver"]

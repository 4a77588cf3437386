"""Engines on a device with its own memory and on the CPU, and calls for them."""

import torch

from rope_core import Attend, Call, Result, RopeConfig, Rotate
from rope_core.calls import tensor_fields
from service.buffer_pool import BufferPool
from service.device import Accelerator, Cpu
from service.inference.engine import Engine
from service.kernel_builds.builder import KernelBuilder
from service.observability.metrics import Metrics
from tests.service.fake_driver import FakeDriver

ROPE = RopeConfig.of(64)


def cpu_engine() -> Engine:
    return _engine(Cpu(BufferPool(2**28)))


def accelerator_engine(driver: FakeDriver, buffer_pool: BufferPool | None = None) -> Engine:
    pool = buffer_pool or BufferPool(2**28, driver)
    return _engine(Accelerator(driver, pool, KernelBuilder(Metrics())))


def _engine(device: Accelerator | Cpu) -> Engine:
    return Engine(device, max_call_s=60)


def rotation(length: int, value: float = 1.0) -> Rotate:
    return Rotate(torch.full((1, length, 8, 64), float(value)), None, ROPE)


def attention(length: int = 8) -> Attend:
    q = torch.randn(1, length, 2, 64)
    return Attend(q, q, q, ROPE)


def run(engine: Engine, calls: list[Call]) -> list[Result]:
    """Run calls as one batch."""
    return [*engine.run([engine.job(call) for call in calls]).results]


def equal(one: Result, other: Result) -> bool:
    """Tell whether all tensors of two results have the same dtypes and the same bits."""
    left, right = tensor_fields(one), tensor_fields(other)
    return left.keys() == right.keys() and all(
        left[name].dtype is right[name].dtype and torch.equal(left[name], right[name])
        for name in left
    )

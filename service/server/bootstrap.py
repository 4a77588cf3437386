"""Build the service from its settings, warm it up, and close it at the end."""

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from functools import partial
from itertools import chain
from pathlib import Path
from threading import Barrier

import torch

from rope_core import ConfigError, Result
from rope_core.backends import fused, varlen
from service.access.gate import Gate
from service.access.keys import BadKeysFile
from service.access.quota import Quotas
from service.batching.admission import Admission
from service.batching.batcher import Batcher
from service.batching.load_estimate import LoadEstimate
from service.buffer_pool import BufferPool
from service.device import Accelerator, Cpu, Device, Driver, cgroup, find_driver
from service.endpoints.presets import load_presets
from service.endpoints.rope_resolver import RopeResolver
from service.errors import DeviceLost, DeviceStuck
from service.faults import read_faults
from service.inference.backend_policy import BackendPolicy
from service.inference.engine import Engine, Job
from service.inference.handler import InferenceHandler
from service.kernel_builds.builder import MAX_WAITING, KernelBuilder
from service.kernel_builds.warm_up_calls import rare_calls, usual_calls
from service.lifecycle import Lifecycle, Phase
from service.memory_blocks import Region
from service.observability import logs
from service.observability.metrics import Metrics
from service.observability.recent import Gauges
from service.oip.state import OipState
from service.resident_memory import trim
from service.server.idle_trim import IdleTrim
from service.server.warm_up import warm_up
from service.settings import Settings, parse_shapes
from service.slab_pool import SlabPool
from service.worker.process import WorkerProcess
from service.worker.queue import WorkerQueue

log = logging.getLogger("rope.app")

STAGING_THREADS = 4
"""CPU threads of torch when a GPU computes and the CPU only copies.

OpenMP makes a team of threads for each thread that calls torch. Teams of all cores of a large host
would exceed the pid limit of a container, and OpenMP then ends the process.
"""

MAX_PREFAULT_BYTES = 320 * 2**20
"""Most memory touched at the start if `ROPE_PREFAULT_BYTES` is unset: about nine bodies of 32 MiB.
On a CPU the pool keeps at most this much idle memory; more returns to the system."""

MAX_IDLE_SLAB_BYTES = 64 * 2**20
"""Idle memory that is kept for request bodies below 1 MiB."""


def build_service(
    settings: Settings, lifecycle: Lifecycle, driver: Driver | None = None
) -> tuple[InferenceHandler, ThreadPoolExecutor]:
    """Return the handler of all requests, and the threads of the device.

    Args:
        settings: the operator's settings.
        lifecycle: the phase of this service.
        driver: driver of the device to compute on; that of `settings.device` if None.
    """
    metrics = Metrics()
    gate = _make_gate(settings.keys_file, metrics)
    driver = driver or find_driver(settings.device)
    num_cpus = cgroup.num_cpus()
    default_threads = num_cpus if driver is None else min(STAGING_THREADS, num_cpus)
    torch.set_num_threads(settings.threads or default_threads)
    budget = settings.memory_budget_bytes or min(cgroup.memory_bytes() // 4, 4 * 2**30)
    faults = read_faults(os.environ)
    allocate = Region.for_block if faults is None else faults.wrap_allocation(Region.for_block)
    # pinned memory is expensive to allocate, so all of it is kept
    max_idle_bytes = max(_prefault_bytes(settings, budget), min(budget // 4, MAX_PREFAULT_BYTES))
    buffer_pool = BufferPool(
        max_idle_bytes if driver is None else budget, pinner=driver, allocate=allocate
    )
    builder = KernelBuilder(metrics)
    device: Device = (
        Cpu(buffer_pool) if driver is None else Accelerator(driver, buffer_pool, builder)
    )
    engine = Engine(device, settings.max_call_s)
    capabilities = device.capabilities
    device_threads = ThreadPoolExecutor(capabilities.max_inflight, thread_name_prefix="device")
    batcher: Batcher[Job, Result] = Batcher(
        engine.run if faults is None else faults.wrap_run(engine.run),
        device_threads,
        max_inflight=capabilities.max_inflight,
        inline_limit_s=capabilities.inline_limit_s,
        stuck_s=settings.device_stuck_s if capabilities.may_hang else None,
        on_failure=partial(_fail, lifecycle),
        max_batch_tokens=settings.max_batch_tokens,
        max_batch_bytes=settings.max_batch_bytes or capabilities.batch_bytes,
        max_queue_calls=settings.max_queue_calls,
        add_compute=gate.quotas.add_compute,
        load=LoadEstimate(settings.max_queue_s),
        metrics=metrics,
    )
    worker_queue = WorkerQueue(
        WorkerProcess(buffer_pool.lease, settings.presets_dir),
        max_queue_s=settings.max_queue_s,
        max_queue_calls=settings.max_queue_calls,
        add_compute=gate.quotas.add_compute,
    )
    admission = Admission(budget)
    metrics.recent.queue_depth = lambda: batcher.num_waiting
    metrics.recent.read_gauges = lambda: Gauges(admission.take_peak(), device.memory_bytes())
    metrics.queue_depth.set_function(lambda: batcher.num_waiting)
    metrics.device_lanes.set(capabilities.max_inflight)
    metrics.predicted_wait_seconds.set_function(lambda: batcher.load.wait_s(time.monotonic()))
    metrics.kernel_builds_waiting.set_function(lambda: builder.num_waiting)
    metrics.queued_bytes.set_function(lambda: sum(job.num_bytes for job in batcher.waiting))
    metrics.admitted_bytes.set_function(lambda: admission.charged_bytes)
    metrics.device_memory_bytes.set_function(device.memory_bytes)
    metrics.device_memory_limit_bytes.set(device.memory_limit_bytes)
    metrics.queue_limit.set(settings.max_queue_calls)
    metrics.predicted_wait_limit_seconds.set(settings.max_queue_s)
    metrics.admission_limit_bytes.set(budget)
    metrics.kernel_builds_limit.set(MAX_WAITING)
    metrics.ready.set_function(lambda: lifecycle.phase is Phase.READY)
    service = InferenceHandler(
        settings=settings,
        engine=engine,
        backend_policy=BackendPolicy(
            _default_backend(settings.backend, device), settings.allow_backend
        ),
        batcher=batcher,
        worker_queue=worker_queue,
        admission=admission,
        buffer_pool=buffer_pool,
        slab_pool=SlabPool(MAX_IDLE_SLAB_BYTES, buffer_pool),
        builder=builder,
        rope_resolver=_build_rope_resolver(settings.presets_dir),
        io_executor=ThreadPoolExecutor(1, thread_name_prefix="io"),
        metrics=metrics,
        gate=gate,
    )

    def abort_pending() -> None:
        batcher.close()
        worker_queue.close()

    lifecycle.abort_pending = abort_pending
    return service, device_threads


@asynccontextmanager
async def lifespan(oip_state: OipState, device_threads: ThreadPoolExecutor) -> AsyncIterator[None]:
    """Warm up while requests may already arrive; at the end, answer the calls that wait."""
    service = oip_state.handler
    if service.engine.device.capabilities.builds_kernels:
        service.batcher.pause()
    loop = asyncio.get_running_loop()
    logs.output.attach(loop)

    def restart_watchdog() -> None:  # on the builder's thread: a build is progress
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(service.batcher.restart_watchdog)

    def free_idle_memory() -> None:
        service.slab_pool.clear()
        trim()

    service.builder.on_progress = restart_watchdog
    IdleTrim(service.admission, free_idle_memory)
    warming_up = asyncio.create_task(_warm_up(service, oip_state.lifecycle, device_threads))
    try:
        with torch.inference_mode():  # for everything on this thread
            yield
    finally:
        warming_up.cancel()
        service.builder.close()
        service.batcher.close()
        service.worker_queue.close()
        oip_state.sessions.close()
        oip_state.regions.close()
        device_threads.shutdown(wait=False)
        service.io_executor.shutdown(wait=False)
        logs.output.detach()


async def _warm_up(
    service: InferenceHandler, lifecycle: Lifecycle, device_threads: Executor
) -> None:
    """Build the usual kernels, report ready, then build the rarer kernels."""
    engine, policy, builder = service.engine, service.backend_policy, service.builder
    capabilities, setting = engine.device.capabilities, service.settings.warm_up_shapes
    shapes = capabilities.warm_up_shapes if setting is None else parse_shapes(setting)
    loop = asyncio.get_running_loop()
    # not asyncio's default executor: the end of the loop waits for its threads, even stuck ones
    thread = ThreadPoolExecutor(1, thread_name_prefix="warm-up")
    barrier = Barrier(capabilities.max_inflight)

    def on_each_thread() -> None:
        barrier.wait()  # each thread runs once: cuDNN, for example, keeps its plans per thread
        usual = chain.from_iterable(usual_calls(*shape) for shape in shapes)
        warm_up(engine, policy, builder, usual, required=True)

    def build_rarer() -> None:
        rarer = chain.from_iterable(rare_calls(*shape) for shape in shapes)
        warm_up(engine, policy, builder, rarer, required=False)

    try:
        await loop.run_in_executor(
            thread,
            service.buffer_pool.preallocate,
            _prefault_bytes(service.settings, service.admission.max_bytes),
        )
        threads = range(capabilities.max_inflight)
        await asyncio.gather(
            *(loop.run_in_executor(device_threads, on_each_thread) for _ in threads)
        )
        lifecycle.warmed_up()
        log.info("ready", extra={"fields": {"device": engine.device.name}})
        service.batcher.resume()
        if capabilities.builds_kernels:
            # Requests do not wait for these kernels: the eager backend computes their calls. One
            # call at a time goes to the builder, so what requests miss is built next.
            await loop.run_in_executor(thread, build_rarer)
    except DeviceLost as lost:
        service.batcher.close(DeviceLost)
        _fail(lifecycle, lost)
    except Exception:
        log.exception("warm-up failed; the service will not become ready")
    finally:
        service.batcher.resume()
        thread.shutdown(wait=False)


def _prefault_bytes(settings: Settings, budget: int) -> int:
    """Return the memory to touch before the service is ready."""
    setting = settings.prefault_bytes
    return min(budget // 4, MAX_PREFAULT_BYTES) if setting is None else setting


def _fail(lifecycle: Lifecycle, failure: DeviceLost | DeviceStuck) -> None:
    log.error("ending: %s", failure)
    lifecycle.fail(Phase.LOST if isinstance(failure, DeviceLost) else Phase.STUCK)


def _make_gate(keys_file: Path | None, metrics: Metrics) -> Gate:
    try:
        return Gate(keys_file, Quotas(metrics.count_request))
    except BadKeysFile as failure:
        raise SystemExit(f"rope-service: ROPE_KEYS_FILE: {failure}") from None


def _build_rope_resolver(presets_dir: Path | None) -> RopeResolver:
    try:
        return RopeResolver(load_presets(presets_dir))
    except ConfigError as failure:
        raise SystemExit(f"rope-service: ROPE_PRESETS_DIR: {failure}") from None


def _default_backend(name: str, device: Device) -> str | None:
    """Return the name of the operator's backend, None for the library's choice."""
    for backend in (fused, varlen):
        why_not = backend.unavailable(torch.device(device.name)) if name == backend.name else None
        if why_not is not None:
            raise SystemExit(f"rope-service: ROPE_BACKEND is {name}, but {why_not}")
    return None if name == "auto" else name

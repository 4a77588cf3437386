"""Trigger lazy imports and kernel builds before requests do."""

import logging
from collections.abc import Iterable

from rope_core import Call, NoBackend
from service.errors import DeviceLost
from service.inference.backend_policy import BackendPolicy
from service.inference.engine import Engine
from service.kernel_builds.builder import KernelBuilder

log = logging.getLogger("rope.warm_up")

MAX_RUNS = 6
"""Runs of one call at most: each may miss another kernel."""


def warm_up(
    engine: Engine,
    policy: BackendPolicy,
    builder: KernelBuilder,
    calls: Iterable[Call],
    *,
    required: bool,
) -> None:
    """Run each call until the kernels that it needs are built. Waits for the builds.

    A call that fails is logged.

    Args:
        engine: what runs the calls.
        policy: chooses the backend of a call, as for a request.
        builder: builds missing kernels.
        calls: the calls to run.
        required: whether a call that fails is run again by the eager backend, which must succeed.

    Raises:
        DeviceLost: the device is lost.
        Exception: `required`, and the eager backend failed as well.
    """
    for call in calls:
        if builder.closed:
            return
        job = engine.job(call, policy.choose(call, None))
        try:
            for _ in range(MAX_RUNS):
                requests = builder.num_requests
                engine.run([job])
                if builder.num_requests == requests:
                    break
                builder.wait()
        except NoBackend:
            continue  # the operator's backend declines the call, as it will for requests
        except DeviceLost:
            raise
        except Exception:
            fields = {"call": type(call).__name__, "num_bytes": job.num_bytes}
            log.exception("a call of the warm-up failed", extra={"fields": fields})
            if required:
                engine.run([engine.job(call, "eager")])

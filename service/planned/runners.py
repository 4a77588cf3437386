"""Choose what runs the calls of a plan."""

from collections.abc import Sequence

from rope_core import Rotate
from rope_core.backends import eager
from service.device import Device
from service.inference.engine import Job, Runner
from service.planned.plan import TensorSpan
from service.planned.rotation import rotation_runner


def runner_for(job: Job, spans: Sequence[TensorSpan], device: Device) -> Runner | None:
    """Return what runs calls like that of `job`; None: the engine runs them as all others.

    Args:
        job: the plan's first call.
        spans: where its tensors lie in a slab.
        device: where calls are computed.
    """
    if not device.capabilities.computes_on_host:
        return None
    if isinstance(job.call, Rotate) and job.backend in (None, eager.name):
        return rotation_runner(job.call, spans)
    return None

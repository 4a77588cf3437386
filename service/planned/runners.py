"""Choose what runs the calls of a plan."""

from collections.abc import Sequence

from rope_core import Attend, Call, Rotate
from rope_core.backends import eager, sdpa
from service.device import Device
from service.inference.engine import Runner
from service.planned.attention import attention_runner
from service.planned.plan import TensorSpan
from service.planned.rotation import rotation_runner


def runner_for(
    call: Call, backend: str | None, spans: Sequence[TensorSpan], device: Device
) -> Runner | None:
    """Return what runs calls like `call`; None: the engine runs them as all others.

    Args:
        call: the first call of a plan.
        backend: name of the backend that must run the calls, or None.
        spans: where tensors lie in a slab.
        device: where calls are computed.
    """
    if device.scratch is None:
        return None
    if isinstance(call, Rotate) and backend in (None, eager.name):
        return rotation_runner(call, spans)
    if isinstance(call, Attend) and backend in (None, sdpa.name):
        return attention_runner(call, spans, device.scratch)
    return None

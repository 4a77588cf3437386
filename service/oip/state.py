"""What HTTP and gRPC share of the protocol: made once, when the service starts."""

from collections.abc import Mapping
from functools import partial

from service.inference.handler import InferenceHandler
from service.lifecycle import Lifecycle
from service.oip.infer.models import MODELS, Model
from service.oip.infer.parse import RequestParser
from service.oip.shm.registry import SharedMemoryRegistry
from service.oip.statistics import Statistics, TritonMetrics
from service.sessions.build import build_sessions


class OipState:
    """The state of the protocol.

    Args:
        handler: answers requests.
        lifecycle: says whether the service is ready.
    """

    def __init__(self, handler: InferenceHandler, lifecycle: Lifecycle) -> None:
        self.handler = handler
        self.lifecycle = lifecycle
        self.sessions = build_sessions(handler, lifecycle)
        self.regions = SharedMemoryRegistry(handler.settings.shared_memory_prefix)
        self.parser = RequestParser(self.regions, handler.settings.max_body_bytes)
        self.statistics: Mapping[str, Statistics] = {
            model.name: Statistics(model.name, partial(self._num_pending, model))
            for model in MODELS.values()
        }
        handler.metrics.registry.register(TritonMetrics(self.statistics))

    def _num_pending(self, model: Model) -> int:
        return sum(issubclass(job.operation, model.call) for job in self.handler.batcher.waiting)

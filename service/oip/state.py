"""What all forms of the protocol share, made at start."""

from collections.abc import Mapping
from functools import partial

from service.inference.handler import InferenceService
from service.lifecycle import Lifecycle
from service.oip.infer.models import MODELS, Model
from service.oip.infer.parse import RequestParser
from service.oip.shm.registry import SharedMemoryRegistry
from service.oip.statistics import Statistics, TritonMetrics


class OipState:
    """The models, and what is known of them.

    Args:
        service: who computes.
        lifecycle: whether it is ready.
    """

    def __init__(self, service: InferenceService, lifecycle: Lifecycle) -> None:
        self.service = service
        self.lifecycle = lifecycle
        self.regions = SharedMemoryRegistry(service.settings.shared_memory_prefix)
        self.parser = RequestParser(self.regions, service.settings.max_body_bytes)
        self.statistics: Mapping[str, Statistics] = {
            model.name: Statistics(model.name, partial(self._num_pending, model))
            for model in MODELS.values()
        }
        service.metrics.registry.register(TritonMetrics(self.statistics))

    @property
    def on_gpu(self) -> bool:
        """Where models run."""
        return self.service.engine.device.name != "cpu"

    def _num_pending(self, model: Model) -> int:
        return sum(isinstance(job.call, model.call) for job in self.service.batcher.waiting)

"""What HTTP and gRPC share of the protocol: made once, when the service starts."""

from collections.abc import Mapping
from functools import partial

from service.inference.handler import InferenceHandler
from service.lifecycle import Lifecycle
from service.oip.infer.models import EndpointModel, Model, Repository
from service.oip.infer.parse import RequestParser
from service.oip.sequences import Sequences
from service.oip.shm.registry import SharedMemoryRegistry
from service.oip.statistics import Statistics, TritonMetrics
from service.sessions.build import build_sessions
from service.sessions.running.jobs import SessionJob
from service.settings import Settings


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
        has_sequences = self.sessions.is_on and _has_sequence_ids(handler.settings)
        self.repository = Repository(has_sequences=has_sequences)
        self.sequences = Sequences(self.sessions)
        self.regions = SharedMemoryRegistry(handler.settings.shared_memory_prefix)
        self.parser = RequestParser(self.regions, handler.settings.max_body_bytes)
        self.statistics: Mapping[str, Statistics] = {
            model.name: Statistics(model.name, partial(self._num_pending, model))
            for model in self.repository.models.values()
        }
        handler.metrics.registry.register(TritonMetrics(self.statistics))

    def _num_pending(self, model: Model) -> int:
        call = model.call if isinstance(model, EndpointModel) else SessionJob
        return sum(issubclass(job.operation, call) for job in self.handler.batcher.waiting)


def _has_sequence_ids(settings: Settings) -> bool:
    """Tell whether clients may choose ids of sequences: other tenants must not reach them."""
    if settings.sequence_ids is None:
        return settings.keys_file is not None
    return settings.sequence_ids

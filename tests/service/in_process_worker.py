"""The worker without its process: calls run on the thread that waits for them."""

from typing import Any

from rope_core import RopeError
from service.endpoints.presets import load_presets
from service.endpoints.rope_resolver import RopeResolver
from service.endpoints.table import ENDPOINTS
from service.errors import ServiceError
from service.wire import Message
from service.worker.frames import describe_error

BY_PATH = {endpoint.path: endpoint for endpoint in ENDPOINTS}


class InProcessWorker:
    """In place of `WorkerProcess`, whose start takes seconds."""

    def __init__(self, _lease: object, presets_dir: Any) -> None:
        self._resolver = RopeResolver(load_presets(presets_dir))

    def start(self) -> None:
        pass

    def answer(self, path: str, message: Message, _number: int) -> tuple[dict[str, Any], Message]:
        try:
            answer = BY_PATH[path].read(message, self._resolver)
        except (RopeError, ServiceError) as failure:
            return describe_error(failure), Message({})
        assert isinstance(answer, Message)
        return {"outcome": "answer", "seconds": 0.0}, answer

    def abandon(self, number: int) -> None:
        pass

    def kill(self, *, for_good: bool = False) -> None:
        pass

    def stop(self) -> None:
        pass

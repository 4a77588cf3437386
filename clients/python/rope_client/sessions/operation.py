"""An operation of a session, before a request or a frame carries it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy.typing as npt

from rope_client.call import Call, Options, Response, message_of
from rope_client.wire.message import Message

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Operation(Generic[T]):
    """One operation of one session. Sent again, it is not done again: the service recognises it."""

    name: str
    session_id: str
    tensors: Mapping[str, npt.NDArray[Any]]
    params: Mapping[str, Any]
    read: Callable[[Message], T]
    """Reads the answer, and updates the state of the session."""

    options: Options
    warnings: tuple[str, ...] = ()

    def as_request(self) -> Call[T]:
        """Return the operation as an HTTP request."""
        return Call(
            path=f"/v1/sessions/{self.session_id}/{self.name}",
            message=Message(self.tensors, self.params),
            read=self._read,
            options=self.options,
            is_idempotent=True,
            warnings=self.warnings,
            headers={"X-Session-Id": self.session_id},
        )

    def as_frame(self, seq: int, timeout_s: float) -> Call[T]:
        """Return the operation as a message of the stream of its session.

        The answer repeats `seq`. `timeout_s` is the deadline if the options have none.
        """
        timeout_ms = max(1, round(1e3 * self.options.get("timeout_s", timeout_s)))
        params = {**self.params, "op": self.name, "seq": seq, "timeout_ms": timeout_ms}

        def read(response: Response) -> T:
            answer = message_of(response)
            if answer.params["seq"] != seq:
                raise ValueError(f"the answer to message {answer.params['seq']}, expected {seq}")
            return self.read(answer)

        return Call(
            path=f"/v1/sessions/{self.session_id}/stream",
            message=Message(self.tensors, params),
            read=read,
            options=self.options,
            is_idempotent=True,
            warnings=self.warnings,
            encoding="safetensors",
        )

    def _read(self, response: Response) -> T:
        return self.read(message_of(response))

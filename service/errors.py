"""Errors of the service; `rope_core.errors` has those of the library. The texts are for clients.

ServiceError
  +- BadMessage              the body is not what its content type says
  +- BadTensor               a tensor of the message is missing or not valid
  |    +- MissingTensor      the message lacks a tensor that the route requires
  |    +- ConflictingTensors the message has tensors that exclude each other
  +- Unauthenticated         the request has no valid API key
  +- Forbidden               the API key lacks the scope of the route
  +- BadRequest              the request is not valid HTTP
  +- BadHeader               a header has a value that is not valid
  +- BadQuery                the query of the target is not valid
  +- HeaderTooLarge          the header of the request is over a limit
  +- TargetTooLong           the target of the request is over the limit
  +- ExpectationFailed       the client expects what the service does not know
  +- UpgradeRequired         the route is a WebSocket, and the request is no handshake
  +- SlowRequest             the request arrives too slowly
  +- UnknownName             the route has no tensor or parameter of this name
  +- UnsupportedMediaType    no codec reads the body
  +- NotAcceptable           no codec writes an answer that the client accepts
  +- TooLarge                the request or its answer is over a limit
  |    +- TensorTooLarge     a tensor has a shape of 2**63 bytes or more; a BadTensor as well
  +- QuotaExceeded           a limit of the API key is exceeded
  +- Overloaded              too many requests wait already
  +- Expired                 the request waited in the queue for longer than it allows
  +- ShuttingDown            the service accepts no more requests
  +- DeviceFull              the device has too little free memory for the call
  +- DeviceLost              the device has failed
  +- DeviceStuck             the device does not return from a run
  +- TimedOut                the deadline passed before the answer
  +- ClientLeft              the client closed the connection before the answer

`service.asgi.problems` maps them to statuses; the docstring of a class there is a problem's title.
"""

from difflib import get_close_matches


class ServiceError(Exception):
    """Base of the service's own errors.

    Args:
        text: what is wrong.
        retry_after_s: seconds after which the client may send the request again, if a later one can
            succeed.
    """

    def __init__(self, text: str = "", retry_after_s: int = 1) -> None:
        super().__init__(text)
        self.retry_after_s = retry_after_s


class BadMessage(ServiceError):
    """The body is not what its content type says."""


class BadTensor(ServiceError):
    """A tensor of the message is missing or not valid."""

    def __init__(self, name: str, expected: str, got: object) -> None:
        super().__init__(f"{printable(name)} must be {expected}, got {got}")


class MissingTensor(BadTensor):
    """The message lacks a tensor that the route requires."""

    def __init__(self, *names: str) -> None:
        ServiceError.__init__(self, f"missing required tensor {_quoted(names)}")


class ConflictingTensors(BadTensor):
    """The message has tensors that exclude each other."""

    def __init__(self, name: str, *others: str) -> None:
        ServiceError.__init__(self, f"'{name}' cannot be combined with {_quoted(others)}")


class Unauthenticated(ServiceError):
    """The request has no valid API key."""


class Forbidden(ServiceError):
    """The API key lacks the scope of the route."""


class BadRequest(ServiceError):
    """The request is not valid HTTP."""


class BadHeader(ServiceError):
    """A header has a value that is not valid."""


class BadQuery(ServiceError):
    """The query of the target is not valid."""


class HeaderTooLarge(ServiceError):
    """The header of the request is over a limit."""


class TargetTooLong(ServiceError):
    """The target of the request is over the limit."""


class ExpectationFailed(ServiceError):
    """The client expects what the service does not know."""


class UpgradeRequired(ServiceError):
    """The route is a WebSocket, and the request is no handshake."""


class SlowRequest(ServiceError):
    """The request arrives too slowly."""


class UnknownName(ServiceError):
    """The route has no tensor or parameter of this name."""

    def __init__(self, kind: str, name: str, valid: list[str], hint: str = "") -> None:
        names = ", ".join(valid) or "none"
        rope, dot, last = name[:64].rpartition(".")  # comparing takes long for long names
        if not hint and (near := get_close_matches(last, valid, n=1, cutoff=0.7)):
            hint = f"did you mean {rope}{dot}{near[0]}?"
        hint = f" ({hint})" if hint else ""
        super().__init__(f"unknown {kind} {printable(name)}{hint}; this route has {names}")


class UnsupportedMediaType(ServiceError):
    """No codec reads the body."""


class NotAcceptable(ServiceError):
    """No codec writes an answer that the client accepts."""


class TooLarge(ServiceError):
    """The request or its answer is over a limit."""

    def __init__(self, what: str, limit: float, got: float | str, remedy: str = "") -> None:
        text = f"{what} may be at most {limit:,}, got {got}"
        super().__init__(f"{text}; {remedy}" if remedy else text)


class TensorTooLarge(TooLarge, BadTensor):
    """The shape of a tensor needs 2**63 bytes or more."""

    def __init__(self, name: str, shape: object) -> None:
        text = f"{printable(name)} must be smaller than 2**63 bytes, got shape {printable(shape)}"
        ServiceError.__init__(self, text)


class QuotaExceeded(ServiceError):
    """A limit of the API key is exceeded."""


class Overloaded(ServiceError):
    """Too many requests wait already."""


class Expired(ServiceError):
    """The request waited in the queue for longer than it allows."""

    def __init__(self) -> None:
        super().__init__("the request's timeout expired in the queue")


class ShuttingDown(ServiceError):
    """The service accepts no more requests."""

    def __init__(self) -> None:
        super().__init__("the service is shutting down")


class DeviceFull(ServiceError):
    """The device has too little free memory for the call."""

    def __init__(self) -> None:
        super().__init__("the device has too little free memory for this call")


class DeviceLost(ServiceError):
    """The device has failed."""

    def __init__(self) -> None:
        super().__init__("the device has failed; the service restarts")


class DeviceStuck(ServiceError):
    """The device does not return from a run."""

    def __init__(self) -> None:
        super().__init__("the device does not answer; the service restarts")


class TimedOut(ServiceError):
    """The deadline passed before the answer."""

    def __init__(self) -> None:
        super().__init__("the deadline passed before the answer")


class ClientLeft(ServiceError):
    """The client closed the connection before the answer."""


def printable(text: object, limit: int = 64) -> str:
    """Return `text` for an error: at most `limit` characters, control characters as "?"."""
    shown = str(text)
    shown = shown if len(shown) <= limit else shown[: limit - 3] + "..."
    return "".join(c if c.isprintable() else "?" for c in shown)


def _quoted(names: tuple[str, ...]) -> str:
    return " or ".join(f"'{name}'" for name in names)

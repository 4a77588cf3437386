"""What can go wrong with a request, apart from the library's own errors.

ServiceError
  +- BadMessage            the body is not what its content type says
  +- BadTensor             a tensor of the body has no legal form
  +- BadHeader             a header has a value that it cannot have
  +- UnknownName           a tensor or a parameter that the route does not know
  +- UnsupportedMediaType  no codec for the body
  +- NotAcceptable         no codec for the answer
  +- TooLarge              the body, or what it takes to answer it, is over a limit
  +- Overloaded            too much is waiting already
  +- Expired               the call waited for the device for longer than it may
  +- ShuttingDown          the service accepts no more
  +- DeviceFull            the device has too little memory for the call
  +- DeviceLost            the device computes no more
  +- DeviceStuck           the device has not come back from a run
  +- TimedOut              the deadline passed before the answer
  +- ClientLeft            nobody waits for the answer any more

Their statuses are in `service.asgi.problems`. Texts are for the client.
"""


class ServiceError(Exception):
    """Base of the service's own failures."""


class BadMessage(ServiceError):
    """The body is not what its content type says."""


class BadTensor(ServiceError):
    """A tensor of the body has no legal form."""

    def __init__(self, name: str, expected: str, got: object) -> None:
        super().__init__(f"{printable(name)} must be {expected}, got {got}")


class BadHeader(ServiceError):
    """A header has a value that it cannot have."""


class UnknownName(ServiceError):
    """A tensor or a parameter that the route does not know."""

    def __init__(self, kind: str, name: str, known: list[str]) -> None:
        legal = ", ".join(known) or "none"
        super().__init__(f"unknown {kind} {printable(name)}; this route knows {legal}")


class UnsupportedMediaType(ServiceError):
    """No codec for the body."""


class NotAcceptable(ServiceError):
    """No codec for the answer."""


class TooLarge(ServiceError):
    """The body, or what it takes to answer it, is over a limit."""

    def __init__(self, what: str, limit: float, got: float | str) -> None:
        super().__init__(f"{what} may be at most {limit:,}, got {got}")


class Overloaded(ServiceError):
    """Too much is waiting already."""


class Expired(ServiceError):
    """The call waited for the device for longer than it may."""

    def __init__(self) -> None:
        super().__init__("the request's timeout expired while it waited")


class ShuttingDown(ServiceError):
    """The service accepts no more."""

    def __init__(self) -> None:
        super().__init__("the service is shutting down")


class DeviceFull(ServiceError):
    """The device has too little memory for the call."""

    def __init__(self) -> None:
        super().__init__("the device has too little memory for this call now")


class DeviceLost(ServiceError):
    """The device computes no more."""

    def __init__(self) -> None:
        super().__init__("the device has failed; the service starts anew")


class DeviceStuck(ServiceError):
    """The device has not come back from a run."""

    def __init__(self) -> None:
        super().__init__("the device does not answer; the service starts anew")


class TimedOut(ServiceError):
    """The deadline passed before the answer."""

    def __init__(self) -> None:
        super().__init__("the deadline passed before there was an answer")


class ClientLeft(ServiceError):
    """Nobody waits for the answer any more."""


def printable(text: object, limit: int = 64) -> str:
    """Return what a client sent, fit to be shown: short, and without control characters."""
    shown = str(text)
    shown = shown if len(shown) <= limit else shown[: limit - 3] + "..."
    return "".join(c if c.isprintable() else "?" for c in shown)

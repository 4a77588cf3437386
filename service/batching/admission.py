"""Memory is bounded before a body is read: each request is charged for what it may take."""

from types import TracebackType

from service.errors import Overloaded


class Admission:
    """The budget of bytes that all requests share."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.charged_bytes = 0


class Charge:
    """A request's share of the budget, given back at the end of its `with` block."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._num_bytes = 0

    def __enter__(self) -> "Charge":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        failure: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.give_back()

    def give_back(self) -> None:
        """Charge for nothing any more."""
        self._admission.charged_bytes -= self._num_bytes
        self._num_bytes = 0

    def add(self, num_bytes: int) -> None:
        """Charge for `num_bytes` more.

        Raises:
            Overloaded: the others leave too little. A request that is alone always gets its share,
                as the limits of a single request are told apart.
        """
        budget, others = self._admission, self._admission.charged_bytes - self._num_bytes
        if others and budget.charged_bytes + num_bytes > budget.max_bytes:
            raise Overloaded(
                f"requests hold {budget.charged_bytes:,} of {budget.max_bytes:,} bytes"
            )
        budget.charged_bytes += num_bytes
        self._num_bytes += num_bytes

"""Admission control: each request is charged for its memory before its body is read."""

from dataclasses import dataclass

from service.errors import Overloaded


@dataclass(slots=True)
class Admission:
    """The memory budget that all requests share, in bytes."""

    max_bytes: int
    charged_bytes: int = 0

    def charge(self, num_bytes: int, held_bytes: int = 0) -> None:
        """Charge a request, which holds `held_bytes` already, for `num_bytes` more.

        Raises:
            Overloaded: other requests leave too little of the budget. A request that is alone is
                never refused: other limits bound the size of a single request.
        """
        charged = self.charged_bytes
        if charged != held_bytes and charged + num_bytes > self.max_bytes:
            raise Overloaded(f"requests hold {charged:,} of {self.max_bytes:,} bytes")
        self.charged_bytes = charged + num_bytes

    def release(self, num_bytes: int) -> None:
        """Return charged bytes to the budget."""
        self.charged_bytes -= num_bytes


@dataclass(slots=True)
class Charge:
    """The bytes charged for one request; released at the end of a `with` block."""

    admission: Admission
    num_bytes: int = 0

    def __enter__(self) -> "Charge":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def add(self, num_bytes: int) -> None:
        """Charge for `num_bytes` more.

        Raises:
            Overloaded: as `Admission.charge`.
        """
        self.admission.charge(num_bytes, self.num_bytes)
        self.num_bytes += num_bytes

    def release(self) -> None:
        """Return all charged bytes to the budget."""
        self.admission.release(self.num_bytes)
        self.num_bytes = 0

"""A tensor with another number of elements than q or k has tokens or rows, in words."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

NOUNS = {"S": "token", "T": "token", "B": "row"}


@dataclass(frozen=True)
class Miscount:
    """A tensor such as positions does not have one element for each token of q or k."""

    tensor: str
    """Name of the tensor with another number."""
    number: int
    """Its number of elements or rows."""
    heads: str
    """Name of the tensor of heads: q or k."""
    sizes: Mapping[str, int]
    """The size of each axis of the heads, by its name, in the order of the axes."""
    axis: str
    """The axis that has another size."""

    @property
    def likely_order(self) -> str:
        """The order of axes in which the number fits, such as `[B, H, S, D]`; "" if there is none.

        Some other axis has as many elements: the heads, or the rows of a batch.
        """
        for other, least in (("H", 0), ("B", 2)):
            fits = self.axis != "B" and self.sizes.get(other) == self.number
            if fits and self.number >= least:
                swap = {self.axis: other, other: self.axis}
                return f"[{', '.join(swap.get(name, name) for name in self.sizes)}]"
        return ""

    @property
    def heads_first(self) -> "Miscount":
        """The same with the axes S and H exchanged: for heads that were sent as `[B, H, S, D]`."""
        swap = {"S": "H", "H": "S"}
        names = [swap.get(name, name) for name in self.sizes]
        return replace(self, sizes={name: self.sizes[name] for name in names})

    def __str__(self) -> str:
        """Return which axis has how many elements, and ask for the order of axes that fits."""
        count = self.sizes[self.axis]
        noun = NOUNS[self.axis] + "s" * (count != 1)
        shape = ", ".join(f"{name}={size}" for name, size in self.sizes.items())
        text = (
            f"{self.heads} has {count} {noun} in axis {self.axis} "
            f"(shape [{shape}]); {self.tensor} has {self.number}"
        )
        return f"{text}: are the axes {self.likely_order}?" if self.likely_order else text

"""The state of a session as a client knows it, for the guards of the next operation."""

from collections.abc import Mapping, Sequence
from typing import Any

from rope_client.sessions.document import SessionDocument

Layers = int | Sequence[int] | None
"""A layer, several independent layers, or None in a session of one layer."""


class SessionState:
    """Lengths and generation of a session, by the last answer to this client.

    Changes by other clients are not known here: the next operation is refused with a conflict,
    until `adopt` takes the state from a document.
    """

    def __init__(self, document: SessionDocument) -> None:
        self.adopt(document)

    def adopt(self, document: SessionDocument) -> None:
        """Take the state from a document."""
        self.id = document.id
        self.configuration = document.configuration
        self.lengths = [list(lengths) for lengths in document.lengths]
        self.generation = document.generation

    @property
    def length(self) -> list[int]:
        """Length of each row: that of its shortest layer."""
        return list(map(min, zip(*self.lengths, strict=True)))

    def guard(self) -> dict[str, Any]:
        """Return the parameters that guard an operation on all layers."""
        return self._guard(self.length)

    def layer_guard(self, layers: Layers, rows: Sequence[int] | None) -> dict[str, Any]:
        """Return the parameters of an append: its layers, and the guard of their lengths.

        Raises:
            ValueError: a layer or a row does not exist, or the layers have different lengths.
        """
        layer = self.first_of(layers)
        params: dict[str, Any] = {}
        if isinstance(layers, Sequence):
            params["layers"] = list(layers)
        elif layers is not None:
            params["layer"] = layer
        lengths = self.lengths[layer]
        if rows is not None:
            if not all(0 <= row < len(lengths) for row in rows):
                raise ValueError(f"rows must be 0 to {len(lengths) - 1}, got {list(rows)}")
            lengths = [lengths[row] for row in rows]
        return {**params, **self._guard(lengths)}

    def first_of(self, layers: Layers) -> int:
        """Return the first of the layers of an append, all of which must be equally long."""
        named = [*layers] if isinstance(layers, Sequence) else [layers or 0]
        if not (named and all(0 <= layer < len(self.lengths) for layer in named)):
            raise ValueError(f"layer must be 0 to {len(self.lengths) - 1}, got {layers}")
        if any(self.lengths[layer] != self.lengths[named[0]] for layer in named):
            raise ValueError(f"layers {named} have different lengths: step them one by one")
        return int(named[0])

    def _guard(self, lengths: list[int]) -> dict[str, Any]:
        # the guards of an equal length are one number
        return {
            "expected_length": lengths[0] if len(set(lengths)) == 1 else lengths,
            "expected_generation": self.generation,
        }

    def set_layer_lengths(self, layers: Layers, answer: Mapping[str, Any]) -> None:
        """Take the lengths of layers from the answer to an append."""
        if isinstance(layers, Sequence):
            for layer, lengths in zip(layers, answer["lengths"], strict=True):
                self.lengths[layer] = list(lengths)
        else:
            self.lengths[layers or 0] = list(answer["length"])
        self.generation = answer["generation"]

    def set_all_lengths(self, answer: Mapping[str, Any]) -> None:
        """Take the length of all layers from the answer to an operation on all layers."""
        self.lengths = [list(answer["length"]) for _ in self.lengths]
        self.generation = answer["generation"]

    def set_generation(self, answer: Mapping[str, Any]) -> None:
        """Take the generation from the answer to an operation that changes no length."""
        self.generation = answer["generation"]

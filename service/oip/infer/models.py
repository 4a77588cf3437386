"""The models of the protocol: what their tensors are called, and which endpoint answers."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from rope_core import Attend, Call, CosSin, Rotate, ShapeError
from service.endpoints.table import ENDPOINTS, Endpoint
from service.oip.errors import UnknownModel

VERSION = "1"

ROWS = (-1, -1, -1, -1)
"""Dimensions of heads `[B, S, H, D]`; packed ones have one less."""


@dataclass(frozen=True, slots=True)
class Slot:
    """A tensor of a model."""

    name: str
    datatype: str
    """The one that metadata tells; heads may be FP16 and BF16, too."""

    dims: tuple[int, ...]
    tensor: str
    """What the endpoint calls it."""

    optional: bool = False

    @property
    def is_heads(self) -> bool:
        """Whether it holds numbers of heads."""
        return self.datatype == "FP32" and self.dims == ROWS


_ENDPOINTS = {endpoint.path: endpoint for endpoint in ENDPOINTS}


@dataclass(frozen=True, slots=True)
class Model:
    """A model, answered by an endpoint of `/v1`."""

    name: str
    path: str
    call: type[Call]
    """What it asks the library for."""
    inputs: tuple[Slot, ...]
    outputs: tuple[Slot, ...]

    @property
    def endpoint(self) -> Endpoint[Any]:
        """Who answers."""
        return _ENDPOINTS[self.path]

    def told(self, failure: Exception) -> Exception:
        """Return a failure as it is to be told: of the tensor by the name that it has here."""
        if isinstance(failure, ShapeError):
            names = {slot.tensor: slot.name for slot in self.inputs}
            return failure.renamed(names.get(failure.tensor, failure.tensor))
        return failure


def _integers(*names: str, dims: tuple[int, ...] = (-1,)) -> tuple[Slot, ...]:
    return tuple(Slot(name, "INT64", dims, name, optional=True) for name in names)


FREQUENCIES = Slot("frequencies", "FP32", (-1,), "frequencies", optional=True)

MODELS: Mapping[str, Model] = MappingProxyType(
    {
        model.name: model
        for model in (
            Model(
                "rope",
                "/v1/rotate",
                Rotate,
                (
                    Slot("x", "FP32", ROWS, "q"),
                    *_integers("positions", dims=(-1, -1)),
                    *_integers("cu_seqlens"),
                    FREQUENCIES,
                ),
                (Slot("rotated", "FP32", ROWS, "q"),),
            ),
            Model(
                "rope_attention",
                "/v1/attention",
                Attend,
                (
                    *(Slot(name, "FP32", ROWS, name) for name in ("q", "k", "v")),
                    *_integers("positions", "q_positions", "k_positions", dims=(-1, -1)),
                    *_integers("cu_seqlens", "cu_seqlens_q", "cu_seqlens_k"),
                    Slot("sinks", "FP32", (-1,), "sinks", optional=True),
                    Slot("mask", "BOOL", ROWS, "mask", optional=True),
                    *_integers("q_index", "k_index", dims=(-1, -1)),
                    FREQUENCIES,
                ),
                (
                    Slot("output", "FP32", ROWS, "out"),
                    Slot("lse", "FP32", (-1, -1, -1), "lse", optional=True),
                ),
            ),
            Model(
                "rope_cos_sin",
                "/v1/cos_sin",
                CosSin,
                (Slot("positions", "INT64", (-1,), "positions"), FREQUENCIES),
                (Slot("cos", "FP32", (-1, -1), "cos"), Slot("sin", "FP32", (-1, -1), "sin")),
            ),
        )
    }
)


def model_of(name: str, version: str = "") -> Model:
    """Return a model; every version that is not told is the one there is.

    Raises:
        UnknownModel: there is none of that name, or of that version.
    """
    if name not in MODELS:
        raise UnknownModel(f"unknown model {name!r}; there are {', '.join(MODELS)}")
    if version not in ("", VERSION):
        raise UnknownModel(f"model {name} has no version {version!r}, only {VERSION}")
    return MODELS[name]

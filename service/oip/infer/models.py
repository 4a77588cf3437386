"""The models of the protocol: their tensors, and the endpoint that answers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rope_core import Attend, Call, CosSin, Rotate
from service.endpoints.table import ENDPOINTS, Endpoint
from service.oip.errors import UnknownModel

VERSION = "1"

BSHD = (-1, -1, -1, -1)
"""Dimensions of a tensor of heads, `[B, S, H, D]`; packed ones have one dimension less."""


@dataclass(frozen=True, slots=True)
class Slot:
    """An input or an output of a model; its name is that of the tensor in `/v1`."""

    name: str
    datatypes: tuple[str, ...]
    """The datatypes that the tensor may have, that of the metadata first."""

    dims: tuple[int, ...]
    optional: bool = False

    @property
    def datatype(self) -> str:
        """The datatype in the metadata."""
        return self.datatypes[0]

    @property
    def has_heads(self) -> bool:
        """Whether the tensor is `[B, S, H, D]`: one row of numbers for each head."""
        return self.datatype == "FP32" and self.dims == BSHD


_ENDPOINTS = {endpoint.path: endpoint for endpoint in ENDPOINTS}


@dataclass(frozen=True, slots=True)
class Model:
    """A model, answered by an endpoint of `/v1`."""

    name: str
    endpoint: Endpoint[Any]
    call: type[Call]
    """Type of the calls that the endpoint makes."""
    inputs: tuple[Slot, ...]
    outputs: tuple[Slot, ...]

    @property
    def infer_paths(self) -> tuple[str, str]:
        """The paths of its inference: without and with its version."""
        path = f"/v2/models/{self.name}"
        return f"{path}/infer", f"{path}/versions/{VERSION}/infer"


FLOATS = ("FP32", "FP16", "BF16")
INTEGERS = ("INT64", "INT32")
POSITIONS = (*INTEGERS, "FP32", "FP64")


def _integers(*names: str, dims: tuple[int, ...] = (-1,)) -> tuple[Slot, ...]:
    return tuple(Slot(name, INTEGERS, dims, optional=True) for name in names)


def _positions(*names: str) -> tuple[Slot, ...]:
    return tuple(Slot(name, POSITIONS, (-1, -1), optional=True) for name in names)


FREQUENCIES = Slot("frequencies", ("FP32", "FP64"), (-1,), optional=True)
Q_AND_K = tuple(Slot(name, FLOATS, BSHD, optional=True) for name in ("q", "k"))
"""q and k, of which a request has at least one."""

_MODELS = (
    Model(
        "rope",
        _ENDPOINTS["/v1/rotate"],
        Rotate,
        (
            *Q_AND_K,
            *_positions("positions"),
            *_integers("cu_seqlens"),
            FREQUENCIES,
        ),
        Q_AND_K,
    ),
    Model(
        "rope_attention",
        _ENDPOINTS["/v1/attention"],
        Attend,
        (
            *(Slot(name, FLOATS, BSHD) for name in ("q", "k", "v")),
            *_positions("positions", "q_positions", "k_positions"),
            *_integers("cu_seqlens", "cu_seqlens_q", "cu_seqlens_k"),
            Slot("sinks", FLOATS, (-1,), optional=True),
            Slot("mask", ("BOOL", *FLOATS), BSHD, optional=True),
            *_integers("q_index", "k_index", dims=(-1, -1)),
            FREQUENCIES,
        ),
        (
            Slot("out", FLOATS, BSHD),
            Slot("lse", ("FP32",), (-1, -1, -1), optional=True),
        ),
    ),
    Model(
        "rope_cos_sin",
        _ENDPOINTS["/v1/cos_sin"],
        CosSin,
        (Slot("positions", POSITIONS, (-1,)), FREQUENCIES),
        (Slot("cos", ("FP32",), (-1, -1)), Slot("sin", ("FP32",), (-1, -1))),
    ),
)

MODELS: Mapping[str, Model] = {model.name: model for model in _MODELS}


def model_of(name: str, version: str = "") -> Model:
    """Return a model; an empty version is the only one there is.

    Raises:
        UnknownModel: no model has that name, or that version.
    """
    if name not in MODELS:
        raise UnknownModel(f"unknown model {name!r}; there are {', '.join(MODELS)}")
    if version not in ("", VERSION):
        raise UnknownModel(f"model {name} has no version {version!r}, only {VERSION}")
    return MODELS[name]

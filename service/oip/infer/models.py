"""The models of the protocol: their tensors, and what answers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rope_core import Attend, Call, CosSin, Rotate
from service.endpoints.table import ENDPOINTS, Endpoint
from service.oip.errors import SequencesOff, UnknownModel

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
    """A model."""

    name: str
    inputs: tuple[Slot, ...]
    outputs: tuple[Slot, ...]

    @property
    def infer_paths(self) -> tuple[str, str]:
        """The paths of its inference: without and with its version."""
        path = f"/v2/models/{self.name}"
        return f"{path}/infer", f"{path}/versions/{VERSION}/infer"


@dataclass(frozen=True, slots=True)
class EndpointModel(Model):
    """A model, answered by an endpoint of `/v1`."""

    endpoint: Endpoint[Any]
    call: type[Call]
    """Type of the calls that the endpoint makes."""


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

_ATTENTION = (
    Slot("out", FLOATS, BSHD),
    Slot("lse", ("FP32",), (-1, -1, -1), optional=True),
)

_MODELS = (
    EndpointModel(
        "rope",
        (
            *Q_AND_K,
            *_positions("positions"),
            *_integers("cu_seqlens"),
            FREQUENCIES,
        ),
        Q_AND_K,
        _ENDPOINTS["/v1/rotate"],
        Rotate,
    ),
    EndpointModel(
        "rope_attention",
        (
            *(Slot(name, FLOATS, BSHD) for name in ("q", "k", "v")),
            *_positions("positions", "q_positions", "k_positions"),
            *_integers("cu_seqlens", "cu_seqlens_q", "cu_seqlens_k"),
            Slot("sinks", FLOATS, (-1,), optional=True),
            Slot("mask", ("BOOL", *FLOATS), BSHD, optional=True),
            *_integers("q_index", "k_index", dims=(-1, -1)),
            FREQUENCIES,
        ),
        _ATTENTION,
        _ENDPOINTS["/v1/attention"],
        Attend,
    ),
    EndpointModel(
        "rope_cos_sin",
        (Slot("positions", POSITIONS, (-1,)), FREQUENCIES),
        (Slot("cos", ("FP32",), (-1, -1)), Slot("sin", ("FP32",), (-1, -1))),
        _ENDPOINTS["/v1/cos_sin"],
        CosSin,
    ),
)

MODELS: Mapping[str, EndpointModel] = {model.name: model for model in _MODELS}
"""The models that keep nothing between requests."""

ROPE_SESSION = Model(
    "rope_session",
    (
        *(Slot(name, FLOATS, BSHD) for name in ("q", "k", "v")),
        Slot("positions", INTEGERS, (-1, -1), optional=True),
    ),
    _ATTENTION,
)
"""The model that steps a KV session, which a sequence id names."""

ALL_MODELS: Mapping[str, Model] = {**MODELS, ROPE_SESSION.name: ROPE_SESSION}


class Repository:
    """The models that a service has.

    Args:
        has_sequences: whether clients may name sessions by sequence ids.
    """

    def __init__(self, *, has_sequences: bool) -> None:
        self.models: Mapping[str, Model] = ALL_MODELS if has_sequences else MODELS

    def find(self, name: str, version: str = "") -> Model:
        """Return a model; an empty version is the only one there is.

        Raises:
            UnknownModel: no model has that name, or that version.
        """
        if name not in self.models:
            if name == ROPE_SESSION.name:
                raise SequencesOff
            raise UnknownModel(f"unknown model {name!r}; there are {', '.join(self.models)}")
        if version not in ("", VERSION):
            raise UnknownModel(f"model {name} has no version {version!r}, only {VERSION}")
        return self.models[name]

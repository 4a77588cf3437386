"""Types of inference requests and responses; OpenAPI describes them by pydantic's schemas."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, NonNegativeInt, WithJsonSchema, create_model
from typing_extensions import TypeAliasType

from service.oip.infer.models import EndpointModel, Model, Slot
from service.oip.infer.params import ALIASES
from service.oip.infer.tensors import DATATYPES
from service.oip.validate import MAX_NAME_LENGTH
from service.v1.schemas import Schema
from service.wire.elements import MAX_RANK

JsonSchema = dict[str, Any]
_DATATYPE = Field(description="A type of elements, in the protocol's words.")
_ENCODING = Field(description="A compression of a body.")
Datatype = TypeAliasType("Datatype", Annotated[Literal[*DATATYPES], _DATATYPE])  # type: ignore[valid-type]
ContentEncoding = TypeAliasType(
    "ContentEncoding", Annotated[Literal["gzip", "deflate", "identity"], _ENCODING]
)
_NAMES = {"type": "string", "description": "A model of the service."}
Shape = Annotated[list[NonNegativeInt], Field(max_length=MAX_RANK)]


class _Region(Schema):
    shared_memory_region: str = ""
    """Name of a registered region."""
    shared_memory_offset: NonNegativeInt = 0
    """Where the tensor begins in the region, in bytes."""
    shared_memory_byte_size: NonNegativeInt = 0
    """Bytes of the tensor in the region."""


class TensorParameters(_Region):
    """Where the bytes of an input or output are."""

    binary_data_size: NonNegativeInt = 0
    """The tensor is this many bytes after the JSON part."""


class OutputParameters(_Region):
    """How to answer an output."""

    binary_data: bool = False
    """Answer the tensor in bytes."""


class InferOutput(Schema):
    """An output."""

    name: str
    """Name of the output."""
    datatype: Datatype
    """Type of the elements."""
    shape: Shape
    """Size of each axis."""
    data: Sequence[float] = ()
    """In row-major order; absent if the elements are bytes or in a region. Elements that are not
    finite are NaN and Infinity, which JSON does not have."""
    parameters: TensorParameters = TensorParameters()
    """Where the bytes of the output are, if they are not in `data`."""


class InferResponseParameters(Schema):
    """Parameters of a response."""

    warnings: str = ""
    """Warnings for the caller, one a line."""
    attention_scaling: float = 1.0
    """Factor that cos and sin contain."""
    length: int | str = 0
    """The length that decided the frequencies; absent if they do not depend on one. Of rope_session
    the length of the layer: a number, or of several rows a list as JSON text."""
    generation: int = 0
    """Of rope_session: the generation of the session."""
    length_source: str = ""
    """What decided the length: positions or tokens of the call, rope.length, or a parameter."""


class InferResponse(Schema):
    """The response to an inference request."""

    id: str = ""
    """The id of the request; absent if the request had none."""
    model_name: str
    """Name of the model."""
    model_version: str
    """Version of the model."""
    parameters: InferResponseParameters = InferResponseParameters()
    """Warnings, and numbers that belong to the outputs."""
    outputs: list[InferOutput]
    """The requested outputs, in the order of the request."""


class _InferInput(Schema):
    name: str
    datatype: Datatype
    """Type of the elements."""
    shape: Shape
    """Size of each axis."""
    data: Sequence[Any] = ()
    """Numbers in row-major order, flat or nested, or booleans."""
    parameters: TensorParameters = TensorParameters()
    """Where the bytes of the input are, if they are not in `data`."""


class _RequestedOutput(Schema):
    name: str
    parameters: OutputParameters = OutputParameters()
    """How to answer the output."""


class _InferRequest(Schema):
    id: Annotated[str, Field(max_length=MAX_NAME_LENGTH)] = ""
    """The response has the same id."""


def model_name(names: Sequence[str]) -> TypeAliasType:
    """Return the type of the names of models."""
    described = Annotated[str, WithJsonSchema(_NAMES | {"enum": [*names]})]
    return TypeAliasType("ModelName", described)


def infer_request(model: Model) -> type[BaseModel]:
    """Return the type of a model's requests; `parameters_schema` has the parameters."""
    name = title(model)
    of_model = f"of model {model.name}"
    tensor = create_model(
        f"{name}Input",
        __base__=_InferInput,
        __doc__=f"An input {of_model}.",
        name=_names(model.inputs),
    )
    output = create_model(
        f"{name}Output",
        __base__=_RequestedOutput,
        __doc__=f"A requested output {of_model}.",
        name=_names(model.outputs),
    )
    min_inputs = 1 if isinstance(model, EndpointModel) else 0  # the end of a sequence has none
    inputs_text = "The inputs; the order does not matter, except that of their bytes."
    outputs_text = "The outputs to answer, in this order; by default all that the model computes."
    parameters_text = "Parameters of the model, and options of the protocol."
    return create_model(
        f"{name}InferRequest",
        __base__=_InferRequest,
        __doc__=f"A request {of_model}.",
        inputs=(list[tensor], Field(min_length=min_inputs, description=inputs_text)),
        outputs=(list[output], Field([], description=outputs_text)),
        parameters=(
            create_model(f"{name}Parameters"),
            Field(None, description=parameters_text),
        ),
    )


def title(model: Model) -> str:
    """Return the name of a model in names of schemas."""
    return "".join(part.title() for part in model.name.split("_"))


def _names(slots: tuple[Slot, ...]) -> Any:
    names = [f"{slot.name} ({'optional' if slot.optional else 'needed'})" for slot in slots]
    enum = {"type": "string", "enum": [slot.name for slot in slots]}
    return Annotated[str, WithJsonSchema(enum)], Field(description=f"{', '.join(names)}.")


_NoEffect = Field(description="Accepted, without effect.")


class ProtocolParameters(Schema):
    """Parameters that all models have."""

    rope: str
    """Name of a preset, or the JSON text of `rope` in `/v1`."""
    timeout: NonNegativeInt
    """Longest wait for the device, in microseconds; 0 is no limit."""
    binary_data_output: bool
    """Default of `binary_data` of the outputs."""
    priority: Annotated[NonNegativeInt, _NoEffect]
    sequence_id: Annotated[NonNegativeInt | str, _NoEffect]
    sequence_start: Annotated[bool, _NoEffect]
    sequence_end: Annotated[bool, _NoEffect]
    triton_enable_empty_final_response: Annotated[bool, _NoEffect]
    content_type: Annotated[Any, _NoEffect]
    headers: Annotated[Any, _NoEffect]


def parameters_schema(model: EndpointModel, schemas: Mapping[str, JsonSchema]) -> JsonSchema:
    """Return the schema of a model's parameters.

    Args:
        model: the model.
        schemas: the components of `/v1`; its parameters become scalars or JSON text.
    """
    params = model.endpoint.params
    endpoint = schemas[f"{params.__name__.removesuffix('Params')}Request"]["properties"]
    rope = dict(schemas["Rope"]["properties"])
    config = {**schemas["PresetModel"]["properties"], **schemas["Model"]["properties"]}
    for name in config.keys() & rope.keys():
        text = f"{rope[name]['description']} By a config or preset: {config[name]['description']}"
        rope[name] = rope[name] | {"description": text}
    endpoint = {name: endpoint[name] for name in params.model_fields if name != "rope"}
    properties = {n: _as_scalar(schema) for n, schema in {**config, **rope, **endpoint}.items()}
    if "return_lse" in properties:
        text = "Answer lse if the request lists no outputs. Default: true."
        properties["return_lse"] = {"type": "boolean", "description": text}
    for alias, name in ALIASES.items():
        if name in properties:
            properties[alias] = properties[name] | {"description": f"Another name of {name}."}
    properties |= ProtocolParameters.model_json_schema()["properties"]
    return {
        "type": "object",
        "description": f"Parameters of model {model.name}.",
        "properties": properties,
        "additionalProperties": False,
    }


def _as_scalar(schema: JsonSchema) -> JsonSchema:
    """Return the schema of a parameter of `/v1` in this protocol: no list, object or null."""
    types = schema.get("type", [])
    types = [types] if isinstance(types, str) else types
    options = [_scalar(one) for one in schema.get("anyOf") or [schema | {"type": t} for t in types]]
    text = {"description": schema["description"]}
    return (options[0] if len(options) == 1 else {"anyOf": options}) | text


def _scalar(schema: JsonSchema) -> JsonSchema:
    match schema["type"]:
        case "array" | "object":
            return {"type": "string", "contentMediaType": "application/json"}
        case "null":
            return {"type": "string", "const": "null"}
    keys = ("type", "enum", "const", "minimum", "maximum")
    return {key: schema[key] for key in keys if key in schema}

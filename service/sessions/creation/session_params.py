"""The parameters of a new session: their types, defaults and descriptions."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError

from rope_core import AttentionConfig, ConfigError
from service.endpoints.rope_params import FORMS, ROPE_PARAMS, ROPES, AnyRope, Params, Rope
from service.errors import UnknownName, printable

Size = Annotated[int, Field(ge=1, le=2**20)]
MAX_LAYERS = 1024

MAX_GROUPS = 64
"""Most groups of layers: the time of operations on all layers grows with them."""
"""Most layers of a session."""

Layer = Annotated[int, Field(ge=0, lt=MAX_LAYERS)]


class SessionAttention(Params):
    """How the queries of a group attend. What is absent is as the model's config says."""

    causal: bool = True
    """Hide later keys, by their indices."""

    window: int | None = None
    """Key j is visible to query i when i - j < window, by their indices."""

    chunk: int | None = None
    """Key j is visible to query i only in its own chunk: i // chunk == j // chunk."""

    softcap: float | None = None
    """Scores become softcap * tanh(score / softcap)."""

    scale: float | None = None
    """Multiplier of the scores; by default head_dim ** -0.5."""

    def override(self, model: AttentionConfig) -> AttentionConfig:
        """Return the value of a model's config, replaced where the request has members."""
        changes = {name: getattr(self, name) for name in self.model_fields_set}
        values = {name: getattr(model, name) for name in model.__dataclass_fields__}
        return AttentionConfig(**values | changes)


class GroupMembers(Params):
    """What a group, and a request without groups, may have."""

    kv_heads: Size | None = None
    """Number of heads of keys and values; by default `heads`, or as the model's config says."""

    value_dim: Size | None = None
    """Width of the heads of v; by default `head_dim`, or as the model's config says."""

    attention: SessionAttention = SessionAttention()
    """How the queries attend."""

    sinks: list[float] | list[list[float]] | None = None
    """A score of each head that joins the softmax without a value: of all layers alike, or a list
    for each layer."""

    rollback: Annotated[int, Field(ge=0, le=2**20)] = 64
    """Tokens behind the window that are kept, so that a truncation finds them."""


class SessionGroup(GroupMembers):
    """Layers that are stored, rotated and attended to alike."""

    layers: Annotated[int, Field(ge=1, le=MAX_LAYERS)] | list[Layer] = 1
    """Indices of the layers, or how many layers follow those of the groups before."""

    heads: Size
    """Number of heads of q."""

    head_dim: Size
    """Width of the heads of q and k."""

    rope: AnyRope | None = Rope()
    """How q and k rotate. null: not at all (NoPE)."""


class SessionMembers(Params):
    """What every new session may have."""

    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Of q, k, v and out."""

    kv_dtype: Literal["same", "e4m3"] = "same"
    """Of the stored keys and values."""

    batch: int = 1
    """Rows at the start, each a sequence of its own length."""

    max_tokens: int | None = None
    """Longest that a row may become. The memory for it is reserved; without it, memory is taken as
    rows grow, and may be missing then."""

    ttl_s: float | None = None
    """Seconds without use after which the session ends."""

    max_age_s: float | None = None
    """Seconds after which the session ends; 0: never, if the operator allows it."""

    evictable: bool = False
    """Whether the session may be ended to make room for others."""

    name: str | None = None
    """Name of the session, unique in the tenant."""

    labels: list[str] = Field(default=[])
    """Texts by which lists are filtered."""


class GroupsParams(SessionMembers):
    """A new session, by groups of layers."""

    groups: Annotated[list[SessionGroup], Field(min_length=1, max_length=MAX_GROUPS)]
    """Layers that are stored, rotated and attended to alike."""


class CompactParams(SessionMembers, SessionGroup):
    """A new session of one group: members of the group and of the session in one object."""


class ModelParams(SessionMembers, GroupMembers):
    """A new session for all layers of a model."""

    preset: str | None = None
    """Name of a preset; `/v1/presets` lists all."""

    config: dict[str, Any] | None = None
    """Contents of the model's config.json."""

    model_type: str | None = None
    """Family of the model, if the config does not name it."""

    part: Literal["text", "vision", "audio"] | None = None
    """Part of a composite model; by default text."""

    compat: Literal["5.23", "4.57"] = "5.23"
    """Version of transformers to follow if versions differ."""

    arithmetic: Literal["float64", "hf"] = "hf"
    """`hf` for the operations of transformers, or `float64` for exact angles."""

    length: int | None = None
    """Length that decides the frequencies of dynamic scaling and LongRoPE; they need it."""

    assume: Literal["llama"] | None = None
    """`llama`: read a config of an unknown model_type as a Llama."""

    heads: Size | None = None
    """Number of heads of q; by default as the config says."""

    head_dim: Size | None = None
    """Width of the heads of q and k; by default as the config says."""


SessionParams = GroupsParams | CompactParams | ModelParams

_TAGS = frozenset((*FORMS, "name"))
"""Tags of the union of ropes, which the client did not write."""

_MODELS: Mapping[str, type[BaseModel]] = {"groups": SessionGroup, "attention": SessionAttention}


def read_session_params(values: Mapping[str, Any]) -> SessionParams:
    """Return the parameters of a new session.

    Raises:
        UnknownName: a name is unknown.
        ConfigError: a value is not valid.
    """
    model: type[SessionParams]
    if "groups" in values:
        model = GroupsParams
    elif "preset" in values or "config" in values:
        if "preset" in values and "config" in values:
            raise ConfigError("config", "absent if preset is given", "both")
        if values.get("preset") is None and values.get("config") is None:
            name = "preset" if "preset" in values else "config"
            raise ConfigError(name, "absent, or that of a model", "null")
        model = ModelParams
    else:
        model = CompactParams
    try:
        return model.model_validate(dict(values))
    except ValidationError as invalid:
        errors = invalid.errors(include_url=False, include_context=False)
    # an unknown name often is a required one with a typing error
    first = next((each for each in errors if each["type"] == "extra_forbidden"), errors[0])
    raise _explain(model, values, first)


def _explain(
    model: type[BaseModel], values: Mapping[str, Any], error: Mapping[str, Any]
) -> Exception:
    """Return the error for a client; it names the member."""
    names: list[str] = []
    form, before = model, ""
    for part in error["loc"]:
        if isinstance(part, int):
            names[-1] += f"[{part}]"
        elif before in ROPES and part in _TAGS:
            form = FORMS.get(part, form)
        elif not _is_union_tag(part):
            names.append(part)
            form = _MODELS.get(before, form)
            before = part
    name, last = ".".join(names), names[-1] if names else "params"
    kind, expected = error["type"], error["msg"].removeprefix("Input should be ")
    if kind == "extra_forbidden":
        hint = ""
        if last in ROPE_PARAMS and "rope" in form.model_fields:
            hint = f'did you mean {last} in "rope"?'
        elif last in SessionAttention.model_fields and "attention" in form.model_fields:
            hint = f'did you mean {last} in "attention"?'
        elif last in SessionGroup.model_fields and "groups" in values:
            hint = "it is a member of each of groups"
        return UnknownName("parameter", name, [*form.model_fields], hint)
    if kind == "missing":
        return ConfigError(name, "given", "none")
    if kind in ("dict_type", "model_type", "model_attributes_type"):
        expected = "an object"
    return ConfigError(name, expected, printable(repr(error["input"])))


def _is_union_tag(part: str) -> bool:
    """Tell whether pydantic has named a member of a union, not a member of the request."""
    names = ("int", "constrained-int", "float", "bool", "str", "nullable")
    return "[" in part or part in names

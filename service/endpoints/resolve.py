"""What a config says of its rotation."""

import dataclasses
from typing import Any

from service.endpoints.rope_resolver import ResolvedRope
from service.wire import Message, Parameters

_TOLD: tuple[str, ...] = ("nope", "model_type", "layer_type", "parameters")
_TOLD += ("keys_read", "keys_ignored", "warnings")


def resolve_rope(found: ResolvedRope) -> Message:
    """Return what is known of a rope: its frequencies as a tensor, the rest as parameters."""
    rope, resolved = found.config, found.resolved
    told: dict[str, Any] = {"rotates": rope is not None, "provenance": dict(found.provenance)}
    if resolved is not None:
        attention = dataclasses.asdict(resolved.attention)
        layers = [dataclasses.asdict(each) for each in resolved.layers]
        told |= {name: getattr(resolved, name) for name in _TOLD}
        told |= {"attention": attention, "layers": layers}
    tensors = {}
    if rope is not None:
        described = {
            field.name: getattr(rope, field.name)
            for field in dataclasses.fields(rope)
            if field.init and field.name not in ("parameters", "axes_parameters")
        }
        told |= {
            "rope": described | dict(rope.parameters) | dict(rope.axes_parameters),
            "attention_scaling": rope.attention_scaling,
            "num_axes": rope.num_axes,
        }
        tensors["inv_freq"] = rope.columns.inv_freq
        scale = resolved.attention.scale if resolved is not None else None
        told["softmax_scale"] = rope.head_dim**-0.5 if scale is None else scale
    return Message(tensors, Parameters.of(told))

"""`/v1/diagnose`: whether numbers are those of a rope, and which mistakes explain them if not."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torch import Tensor

from rope_core import ConfigError, Diagnosis, ShapeError, diagnose
from rope_core.calls.rope_checks import widths
from rope_core.config import AttentionConfig
from service.endpoints.builders import positions_of_q_and_k, tensors_of_q_and_k
from service.endpoints.params import AttentionParams, DiagnoseParams
from service.endpoints.rope_resolver import ResolvedRope, RopeResolver
from service.endpoints.tensor_layout import as_bshd, name_layout
from service.endpoints.token_index import token_index
from service.wire import Message, Parameters

ATTENTION_EVIDENCE = ("q", "k", "v", "out", "lse")

ATTENTION_TENSORS = (
    *("q_positions", "k_positions", "cu_seqlens", "cu_seqlens_q", "cu_seqlens_k"),
    *("sinks", "mask", "frequencies", "q_index", "k_index"),
)

EVIDENCE = ("before", "after", "cos", "sin", "inv_freq", *ATTENTION_EVIDENCE)
"""Tensors that show what some code computes."""

DIAGNOSIS_TENSORS = (
    *("expected", "error_by_pair", "error_by_position", "inv_freq", "inv_freq_expected"),
)

ATTENTION_PARAMS = AttentionParams.model_fields.keys() - {"rope"}
"""Parameters that need evidence of attention."""


def answer_diagnose(
    tensors: Mapping[str, Tensor], params: DiagnoseParams, resolver: RopeResolver
) -> Message:
    """Return the diagnosis of the evidence in `tensors`.

    Raises:
        ConfigError, ShapeError: the evidence is missing or mixed, or does not fit the rope.
        ConflictingTensors: two tensors exclude each other.
    """
    if tensors.keys().isdisjoint(ATTENTION_EVIDENCE):
        diagnosis = _diagnose_rotation(tensors, params, resolver)
    else:
        diagnosis = _diagnose_attention(tensors, params, resolver)
    return _write(diagnosis, params.tensor_layout)


def _diagnose_rotation(
    tensors: Mapping[str, Tensor], params: DiagnoseParams, resolver: RopeResolver
) -> Diagnosis:
    """Diagnose a rotation, a table or frequencies."""
    expected = "absent: for attention only (tensors q, k, v and out)"
    for name in sorted(params.model_fields_set & ATTENTION_PARAMS):
        raise ConfigError(name, expected, getattr(params, name))
    for name in ATTENTION_TENSORS:
        if name in tensors:
            raise ShapeError(name, expected, list(tensors[name].shape))
    positions = tensors.get("positions")
    head_dim, num_axes = None, None
    if (heads := tensors.get("before", tensors.get("after"))) is not None:
        head_dim, num_axes = widths(heads, positions)
    elif positions is not None:
        num_axes = len(positions) if positions.ndim > 1 else 1
    resolved = _resolve(params, resolver, head_dim, num_axes)
    evidence: Mapping[str, Any] = tensors
    return diagnose(
        resolved.source,
        **evidence,
        max_mistakes=params.max_mistakes,
        tolerance=params.tolerance,
    )


def _diagnose_attention(
    tensors: Mapping[str, Tensor], params: DiagnoseParams, resolver: RopeResolver
) -> Diagnosis:
    if params.backend is not None:
        raise ConfigError("backend", "absent: no backend computes a diagnosis", params.backend)
    if params.tensor_layout == "bhsd":
        tensors = _outputs_as_bshd(as_bshd(tensors))
    arguments: dict[str, Any] = {
        name: tensors[name]
        for name in (*EVIDENCE, "sinks", "mask", "frequencies")
        if name in tensors
    }
    q_positions, k_positions = positions_of_q_and_k(tensors, params)
    cu_seqlens = tensors_of_q_and_k(tensors, "cu_seqlens", "cu_seqlens_q", "cu_seqlens_k")
    q, k = tensors.get("q"), tensors.get("k")
    resolved = ResolvedRope(None)
    if q is not None and k is not None:  # else `diagnose` tells which is missing
        arguments["q_index"], arguments["k_index"] = token_index(tensors, params, *cu_seqlens)
        of_rope = (k, k_positions) if params.rotate == "k" else (q, q_positions)
        resolved = _resolve(params, resolver, *widths(*of_rope))
    if resolved.model is not None and resolved.model.differ:
        expected = "given, or layer_type: the layers of this model differ"
        raise ConfigError("rope.layer", expected, "none")
    arguments |= {"q_positions": q_positions, "k_positions": k_positions}
    arguments |= {"cu_seqlens_q": cu_seqlens[0], "cu_seqlens_k": cu_seqlens[1]}
    of_model = resolved.model.require_attention() if resolved.model else None
    given = {name: value for name, value in arguments.items() if value is not None}
    return diagnose(
        resolved.source,
        **given,
        attention=params.override(of_model or AttentionConfig()),
        rotate=params.rotate,
        max_mistakes=params.max_mistakes,
        tolerance=params.tolerance,
    )


def _resolve(
    params: DiagnoseParams, resolver: RopeResolver, head_dim: int | None, num_axes: int | None
) -> ResolvedRope:
    if params.rope is None:
        return ResolvedRope(None)
    return resolver.resolve(params.rope, head_dim, num_axes)


def _outputs_as_bshd(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return the tensors with `out` and `lse` as views `[B, S, H, Dv]` and `[B, S, H]`."""
    transposed = {}
    for name, axes in (("out", "[B, H, S, Dv]"), ("lse", "[B, H, S]")):
        if name in tensors:
            if tensors[name].ndim != axes.count(",") + 1:
                expected = f"{axes} with tensor_layout bhsd"
                raise ShapeError(name, expected, list(tensors[name].shape))
            transposed[name] = tensors[name].transpose(1, 2)
    return {**tensors, **transposed}


def _write(diagnosis: Diagnosis, layout: str) -> Message:
    tensors = dict(diagnosis.tensors)
    if layout == "bhsd" and "expected" in tensors:
        tensors["expected"] = tensors["expected"].transpose(1, 2).contiguous()
    values = {
        "verdict": diagnosis.verdict,
        "error": asdict(diagnosis.error),
        "explanations": [asdict(each) for each in diagnosis.explanations],
        "measured": None if diagnosis.measured is None else asdict(diagnosis.measured),
        "next_probe": diagnosis.next_probe,
        "warnings": [name_layout(warning, layout) for warning in diagnosis.warnings],
    }
    return Message(tensors, Parameters.of(values))

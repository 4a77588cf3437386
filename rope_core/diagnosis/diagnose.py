"""Find out whether numbers are those of a rope, and which mistake explains them if not."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from rope_core.calls.rope_checks import widths
from rope_core.checks import is_number, not_a_tensor
from rope_core.config import AttentionConfig
from rope_core.diagnosis.attention.diagnose import diagnose_attention
from rope_core.diagnosis.calls import Clues
from rope_core.diagnosis.model import model_clues
from rope_core.diagnosis.result import Diagnosis
from rope_core.diagnosis.rotation.diagnose import diagnose_rotation
from rope_core.diagnosis.table.diagnose import diagnose_frequencies, diagnose_table
from rope_core.errors import ConfigError, ShapeError, brief
from rope_core.functional.arguments import Numbers, as_tensor
from rope_core.hf import Resolved
from rope_core.sources import RopeSource

KINDS = {
    "rotation": ("before", "after"),
    "table": ("cos", "sin"),
    "frequencies": ("inv_freq",),
    "attention": ("q", "k", "v", "out"),
}
"""Tensors that each kind of evidence needs."""

EVIDENCE = "one kind of evidence: 'before' and 'after', 'cos' and 'sin', 'inv_freq', or 'q', 'k', \
'v' and 'out'"


def diagnose(
    rope: RopeSource | None,
    *,
    before: Tensor | None = None,
    after: Tensor | None = None,
    cos: Tensor | None = None,
    sin: Tensor | None = None,
    inv_freq: Tensor | None = None,
    q: Tensor | None = None,
    k: Tensor | None = None,
    v: Tensor | None = None,
    out: Tensor | None = None,
    lse: Tensor | None = None,
    positions: Numbers | None = None,
    attention: AttentionConfig | None = None,
    max_mistakes: int = 2,
    tolerance: float | None = None,
    **attention_arguments: Any,
) -> Diagnosis:
    """Say whether numbers are those of a rope, and which known mistakes reproduce them if not.

    Give one kind of evidence: a rotation (`before`, `after`), a table (`cos`, `sin`), frequencies
    (`inv_freq`), or attention (`q`, `k`, `v` before rotation, and `out`).

    Args:
        rope: what the numbers should be, in any form that `resolve` takes. None for attention that
            rotates nothing.
        before: `[B, S, H, D]` or `[T, H, D]`, float32, float16 or bfloat16: what went in.
        after: as before: what came out.
        cos: `[..., n]` or `[..., 2n]`, with halves or neighbours repeated.
        sin: as cos.
        inv_freq: `[n]`, radians per position.
        q: as in `attend`, before the rotation; also k and v.
        k: as in `attend`.
        v: as in `attend`.
        out: what the attention returned.
        lse: its log-sum-exp, if it returned one.
        positions: of the tokens, as in `rotate`; of a table as in `cos_sin`. None counts from 0.
        attention: as in `attend`.
        max_mistakes: 1, or 2 to look for two mistakes at once also.
        tolerance: largest relative error that is no difference; None for that of the dtype.
        attention_arguments: other arguments of `attend`.

    Raises:
        ShapeError: a tensor is missing, or its shape, dtype or numbers do not fit the others.
        ConfigError: the rope or a parameter is not valid, or belongs to another kind of evidence.
    """
    names = ("before", "after", "cos", "sin", "inv_freq", "q", "k", "v", "out")
    values = (before, after, cos, sin, inv_freq, q, k, v, out)
    tensors = dict(zip(names, values, strict=True))
    kind = _kind({**tensors, "lse": lse})
    if type(max_mistakes) is not int or max_mistakes not in (1, 2):
        raise ConfigError("max_mistakes", "1 or 2", brief(max_mistakes))
    if tolerance is not None and not (is_number(tolerance) and tolerance > 0):
        raise ConfigError("tolerance", "a number above 0", brief(tolerance))
    given: dict[str, Any] = {
        name: tensor for name in KINDS[kind] if (tensor := tensors[name]) is not None
    }
    limits: dict[str, Any] = {"max_mistakes": max_mistakes, "tolerance": tolerance}
    if kind == "attention":
        arguments = {"lse": lse, "positions": positions, "attention": attention, **limits}
        return diagnose_attention(rope, **given, **arguments, **attention_arguments)
    expected = "absent: for attention only (q, k, v and out)"
    _refuse({"attention": attention, **attention_arguments}, expected)
    with torch.no_grad():
        given = {name: tensor.detach().cpu() for name, tensor in given.items()}
        at = as_tensor("positions", positions, torch.device("cpu"))
        if kind == "frequencies":
            _refuse({"positions": at}, "absent with 'inv_freq', which has no positions")
            clues = model_clues(rope, None, None)
            return diagnose_frequencies(_resolved(clues), clues, **given, **limits)
        if kind == "table":
            clues = model_clues(
                rope, None, None if at is None else at.shape[0] if at.ndim > 1 else 1
            )
            return diagnose_table(_resolved(clues), clues, **given, positions=at, **limits)
        clues = model_clues(rope, *widths(given["before"], at))
        return diagnose_rotation(_resolved(clues), clues, **given, positions=at, **limits)


def _kind(tensors: Mapping[str, Tensor | None]) -> str:
    """Return the kind of evidence; raise an error if it is missing, mixed or not complete."""
    given = [name for name, tensor in tensors.items() if tensor is not None]
    kinds = [kind for kind, names in KINDS.items() if any(name in given for name in names)]
    if "lse" in given and "attention" not in kinds:
        kinds.append("attention")
    if len(kinds) != 1:
        raise ConfigError("evidence", EVIDENCE, given or "none")
    for name in given:
        if not isinstance(tensors[name], Tensor):
            raise not_a_tensor(name, tensors[name])
    for name in KINDS[kinds[0]]:
        if name not in given:
            raise ShapeError(name, f"given with {', '.join(map(repr, given))}", "none")
    return kinds[0]


def _refuse(arguments: Mapping[str, Any], expected: str) -> None:
    for name, value in arguments.items():
        if value is not None:
            raise ConfigError(name, expected, "one")


def _resolved(clues: Clues) -> Resolved:
    assert clues.resolved is not None, "the rope is resolved"
    rope = clues.resolved.rope
    if rope is not None and rope.learned is not None:
        expected = "a rope without learned frequencies, which no evidence has"
        raise ConfigError("rope.learned", expected, repr(rope.learned))
    return clues.resolved

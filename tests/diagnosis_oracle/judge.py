"""Compare a diagnosis with what is wrong with a case."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from tests.diagnosis_oracle.attention_cases import AttentionCase
from tests.diagnosis_oracle.cases import Case, Truth
from tests.diagnosis_oracle.mistakes import ORDER

NOT_COMPARED = (
    *("beta_swapped", "axes_ignored", "window_ignored", "chunk_ignored", "softcap_missing"),
    *("sinks_missing", "mask_ignored"),
)
"""Codes whose parameters the contract leaves open."""


def judge(case: Case | AttentionCase, diagnosis: Any) -> str:
    """Return "right"; "tie" if the first explanation is as good; or what is wrong with the answer.

    A tie has no more mistakes than the truth, and the oracle reproduces the evidence with the
    parameters told as well as with the truth: another code, or another number (of all trained
    lengths with the same truncated bounds of YaRN, none can be told from the others).
    """
    if not case.truth:
        return (
            "right" if diagnosis.verdict == "agrees" else f"{diagnosis.verdict}: {told(diagnosis)}"
        )
    if diagnosis.verdict != "explained":
        return f"{diagnosis.verdict}: {diagnosis.error.relative} of {diagnosis.error.tolerance}"
    first = truth_of(diagnosis.explanations[0])
    if same_mistakes(case.truth, first):
        return "right"
    limit = max(2 * case.replay(case.truth), case.tolerance / 10)
    try:
        error = case.replay(first)
    except (KeyError, IndexError, ValueError, TypeError) as failure:
        return f"{told(diagnosis)}: {failure!r}"
    if len(first) <= len(case.truth) and error <= limit:
        is_told = dict(first).keys() == dict(case.truth).keys() or any(
            same_mistakes(case.truth, truth_of(x)) for x in diagnosis.explanations
        )
        if len(first) < len(case.truth) or is_told or rank(first) < rank(case.truth):
            return "tie"
    return f"{told(diagnosis)}: {error:.2g} of {limit:.2g}"


def truth_of(explanation: Any) -> Truth:
    """Return the codes and parameters of an explanation."""
    return tuple((one.code, one.parameters) for one in explanation.mistakes)


def rank(mistakes: Truth) -> tuple[int, ...]:
    """Return the places of the codes in the table of the contract."""
    return tuple(sorted(ORDER.index(code) for code, _ in mistakes))


def told(diagnosis: Any) -> str:
    """Return the first explanations as text."""
    names = []
    for explanation in diagnosis.explanations[:3]:
        pairs = [f"{code} {dict(given)}"[:60] for code, given in truth_of(explanation)]
        names.append(" + ".join(pairs) + f" ({explanation.relative_error:.1g})")
    return "; ".join(names) or "nothing"


def same_mistakes(truth: Truth, other: Truth) -> bool:
    """Say whether codes and parameters are the same, in any order."""
    ours, theirs = dict(truth), dict(other)
    return ours.keys() == theirs.keys() and all(
        code in NOT_COMPARED
        or (same_order if code == "axes_order" else same_parameters)(ours[code], theirs[code])
        for code in ours
    )


def same_order(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool:
    """Say whether an order of axes is told, or its inverse."""
    order, other = list(ours["order"]), [int(axis) for axis in theirs.get("order", ())]
    return other in (order, [order.index(axis) for axis in range(len(order))])


def same_parameters(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool:
    """Say whether all our parameters are told, numbers within 1 %."""
    return all(name in theirs and same_value(name, ours[name], theirs[name]) for name in ours)


def same_value(name: str, ours: Any, theirs: Any) -> bool:
    """Say whether a value is told right: a measured number within 1 %."""
    is_measured = isinstance(ours, float) or name == "original_max_position_embeddings"
    if is_measured and isinstance(theirs, int | float) and not isinstance(theirs, bool):
        return bool(np.isclose(theirs, ours, rtol=0.01, atol=1e-9))
    if isinstance(ours, list | tuple):
        return list(ours) == [int(x) for x in theirs]
    return bool(ours == theirs)

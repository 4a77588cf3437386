"""Diagnose attention: which mistakes of attention and of its rotation reproduce an output."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rope_core.attention_warnings import attention_warnings
from rope_core.calls import Attend
from rope_core.calls.rope_checks import widths
from rope_core.checks import (
    check_dtype,
    has_unusual_heads,
    looks_heads_first,
    not_a_tensor,
    shape_of,
)
from rope_core.config import Arithmetic, AttentionConfig, RopeConfig
from rope_core.diagnosis.attention.expected import expected_values
from rope_core.diagnosis.attention.fit import difference as lse_difference
from rope_core.diagnosis.attention.parts import AttentionTensors, parts
from rope_core.diagnosis.attention.search import AttentionSearch
from rope_core.diagnosis.attention.simulation import Cost, CostExceeded, Part, products, visibility
from rope_core.diagnosis.attention_call import (
    AttentionCall,
    angles_rms,
    in_float64,
    is_float32,
    right_call,
)
from rope_core.diagnosis.calls import Clues
from rope_core.diagnosis.difference import (
    OTHER_ARITHMETIC,
    channel_energies,
    ratio,
    relative_error,
    worst_element,
)
from rope_core.diagnosis.explain import explain, reproducing_rope
from rope_core.diagnosis.mistakes import MISTAKES
from rope_core.diagnosis.model import model_clues
from rope_core.diagnosis.ranking import Candidate, rank
from rope_core.diagnosis.result import Diagnosis, Difference, Explanation
from rope_core.errors import HEADS_FIRST, ConfigError, ShapeError
from rope_core.functional.arguments import Numbers, as_tensor
from rope_core.hf import Resolved
from rope_core.sources import RopeSource

CPU = torch.device("cpu")
TOLERANCES = {torch.float32: 1e-4, torch.float16: 3e-3, torch.bfloat16: 2e-2}
"""Relative error that is no difference, of scores that are small."""

NOISE = {torch.float32: 2e-6, torch.float16: 5e-4, torch.bfloat16: 4e-3}
"""Relative error that rounding makes."""

FAR_ANGLES = 500.0
"""Root mean square of angles from which on code in float64 and code in float32 differ."""

NEARLY = 0.1
"""Relative error up to which code may be right in another arithmetic."""

FEW_TOKENS = 256
"""Tokens of which a search seldom comes to its limit."""

FLAT_SCORES = 4.0
"""Root mean square of scores that doubles the tolerance of half precision."""


Outputs = tuple[Tensor, Tensor | None]
"""Out `[T, H, Dv]` and log-sum-exp `[T, H]`."""


def diagnose_attention(
    rope: RopeSource | None,
    *,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor | None = None,
    positions: Numbers | None = None,
    attention: AttentionConfig | None = None,
    max_mistakes: int = 2,
    tolerance: float | None = None,
    **arguments: Any,
) -> Diagnosis:
    """Say whether `out` and `lse` are what attention of a layer gives, and what explains them.

    Args:
        rope: as in `diagnose`.
        q: as in `attend`; also k, v, positions, attention and arguments.
        k: as q.
        v: as q.
        out: the evidence, `[..., H, Dv]`.
        lse: its log-sum-exp, `[..., H]`, or None.
        positions: of queries and keys.
        attention: None for that of the model.
        max_mistakes: 1 or 2.
        tolerance: None for that of the dtype.
        arguments: other arguments of `attend`.
    """
    with torch.no_grad():
        has_lse = lse is not None
        clues, call, warnings = _call(rope, q, k, v, positions, attention, arguments, has_lse)
        out, lse = _check_outputs(call, out, lse)
        right = right_call(call, has_lse, _silent_rope(call, clues))
        expected = expected_values(call, right)
        got = _flat(out, 2), None if lse is None else _flat(lse, 1)
        wanted = _flat(expected.out, 2), None if expected.lse is None else _flat(expected.lse, 1)
        errors = _errors(got, wanted)
        tensors = AttentionTensors(
            q=_flat(call.q, 2), k=_flat(call.k, 2), v=_flat(call.v, 2), out=got[0], lse=got[1]
        )
        chosen = parts(tensors, right, errors) if len(tensors.q) else []
        if tolerance is None:
            tolerance = _tolerance(out.dtype, right, chosen)
        wrong, right_energy = _energies(got[0], wanted[0])
        answer = {
            "expected": expected.out,
            "error_by_position": ratio(wrong, right_energy).nan_to_num(0.0, 0.0, 0.0),
        }
        of_out = relative_error(float(wrong.sum()), float(right_energy.sum()))
        error = _difference(out, expected.out, of_out, got[1], wanted[1], tolerance)
        diagnosis = Diagnosis(verdict="unexplained", error=error, warnings=warnings, tensors=answer)
        if error.max_abs is None:
            text = "the evidence has numbers that are NaN or infinite"
            return replace(diagnosis, warnings=(*warnings, text))
        if error.relative is None and error.max_abs == 0:
            text = "all numbers are 0, here and in the evidence"
            return replace(diagnosis, verdict="agrees", warnings=(*warnings, text))
        if error.relative is not None and error.relative <= tolerance:
            return replace(diagnosis, verdict="agrees", next_probe=_proves_nothing(right))
        if (other := _of_other_arithmetic(call, right, error, out, got)) is not None:
            return replace(other, warnings=(*warnings, *other.warnings))
        search = AttentionSearch(
            right=right,
            parts=chosen,
            clues=clues,
            mscale=_mscale(clues.resolved),
            tolerance=tolerance,
            noise=NOISE[out.dtype],
        )
        is_whole = _search(search, max_mistakes)
        ranked = rank(search.found, tolerance)
        if not ranked:
            return replace(
                diagnosis, next_probe=_proves_nothing(right) or _other_evidence(is_whole)
            )
        return replace(
            diagnosis,
            verdict="explained",
            explanations=_explanations(ranked, right),
            next_probe=_ambiguity(ranked),
        )


def _of_other_arithmetic(
    call: Attend, right: AttentionCall, error: Difference, out: Tensor, got: Outputs
) -> Diagnosis | None:
    """Return that the evidence agrees if it does with angles in float64, or else in float32."""
    rope, relative = call.rope, error.relative
    if rope is None or relative is None or relative > NEARLY or angles_rms(right) < FAR_ANGLES:
        return None
    arithmetic: Arithmetic = "float64" if rope.arithmetic == "hf" else "hf"
    expected = expected_values(replace(call, rope=replace(rope, arithmetic=arithmetic)), right)
    wrong, energy = _energies(got[0], _flat(expected.out, 2))
    of_out = relative_error(float(wrong.sum()), float(energy.sum()))
    lse = None if expected.lse is None else _flat(expected.lse, 1)
    other = _difference(out, expected.out, of_out, got[1], lse, error.tolerance)
    if other.relative is None or other.relative > error.tolerance:
        return None
    by_position = ratio(wrong, energy).nan_to_num(0.0)
    return Diagnosis(
        verdict="agrees",
        error=other,
        warnings=(OTHER_ARITHMETIC[arithmetic],),
        tensors={"expected": expected.out, "error_by_position": by_position},
    )


def _call(
    rope: RopeSource | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    positions: Numbers | None,
    attention: AttentionConfig | None,
    arguments: Mapping[str, Any],
    has_lse: bool,
) -> tuple[Clues, Attend, tuple[str, ...]]:
    """Return what was resolved, the right call, and its warnings."""
    given = {name: value for name, value in arguments.items() if value is not None}
    rotate = given.pop("rotate", "both")
    if positions is not None:
        if "q_positions" in given or "k_positions" in given:
            raise ConfigError("positions", "None if q_positions or k_positions is given", "both")
        sides = [side for side in "qk" if rotate in ("both", side)]
        given |= {f"{side}_positions": positions for side in sides}
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        if not isinstance(tensor, Tensor):
            raise not_a_tensor(name, tensor)
    for name in (
        "q_positions",
        "k_positions",
        "cu_seqlens_q",
        "cu_seqlens_k",
        "q_index",
        "k_index",
    ):
        if name in given:
            given[name] = as_tensor(name, given[name], CPU)
    for name in ("sinks", "mask", "frequencies"):
        if isinstance(given.get(name), Tensor):
            given[name] = given[name].detach().cpu()
    q, k, v = (x.detach().cpu() for x in (q, k, v))
    clues, config = Clues(), None
    if rope is not None:
        of_rope = (k, given.get("k_positions")) if rotate == "k" else (q, given.get("q_positions"))
        clues = model_clues(rope, *widths(*of_rope))
        resolved = clues.resolved
        assert resolved is not None, "the rope is resolved"
        of_layer = resolved.require_attention()
        config, attention = resolved.rope, attention or of_layer
        rotate = "both" if config is None else rotate
    call = Attend(
        q,
        k,
        v,
        config,
        attention or AttentionConfig(),
        rotate=rotate,
        return_lse=has_lse,
        **given,
    )
    warnings = () if clues.resolved is None else clues.resolved.warnings
    return clues, call, (*warnings, *_warnings_of_tokens(call, config))


def _warnings_of_tokens(call: Attend, rope: RopeConfig | None) -> tuple[str, ...]:
    """Return a warning if q and k look like `[B, H, S, D]`, or else those of `attend`."""
    has_positions = call.q_positions is not None or call.k_positions is not None
    if not has_positions and (
        looks_heads_first(call.q, call.k) or (call.q.ndim == 4 and has_unusual_heads(call.q))
    ):
        return (HEADS_FIRST,)
    return attention_warnings(call, rope)


def _check_outputs(call: Attend, out: Tensor, lse: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Return out and lse on the CPU, lse in float32.

    Raises:
        ShapeError: they are not those of the call.
    """
    shape = [*call.q.shape[:-1], call.v.shape[-1]]
    for name, tensor, expected in (("out", out, shape), ("lse", lse, shape[:-1])):
        if tensor is None:
            continue
        check_dtype(name, tensor, *TOLERANCES)
        if [*tensor.shape] != expected:
            raise ShapeError(name, f"of shape {expected}", shape_of(tensor))
    return out.detach().cpu(), None if lse is None else lse.detach().cpu().float()


def _flat(x: Tensor, axes_of_token: int) -> Tensor:
    """Return `[B, S, ...]` or `[T, ...]` as `[T, ...]`."""
    return x.flatten(0, 1) if x.ndim == axes_of_token + 2 else x


def _errors(got: Outputs, expected: Outputs) -> Tensor:
    """Return the relative error of each token and head, `[T, H]`."""
    wrong = (got[0].float() - expected[0].float()).square_().sum(-1)
    errors = ratio(wrong, expected[0].float().square().sum(-1))
    if got[1] is not None and expected[1] is not None:
        wrong = lse_difference(got[1], expected[1]).abs()
        typical = expected[1].nan_to_num(0.0, 0.0, 0.0).square().mean().sqrt().clamp(min=1e-6)
        errors = errors.maximum(wrong / typical)
    return errors.nan_to_num(0.0)


def _energies(got: Tensor, expected: Tensor) -> tuple[Tensor, Tensor]:
    """Return the squares of difference and expected numbers of each token, float64 `[T]` each."""
    if not got.numel():
        return torch.zeros(len(got)).double(), torch.zeros(len(got)).double()
    wrong, _, right, _ = channel_energies(got, expected)
    return wrong, right


def _difference(
    out: Tensor,
    expected_out: Tensor,
    relative: float | None,
    lse: Tensor | None,
    expected_lse: Tensor | None,
    tolerance: float,
) -> Difference:
    """Return the error: the greater of those of out and of lse."""
    max_abs, worst = worst_element(out, expected_out) if out.numel() else (0.0, None)
    if lse is not None and expected_lse is not None:
        if bool((lse.isnan() | (lse == math.inf)).any()):
            max_abs = None
        right = expected_lse.double().nan_to_num(0.0, 0.0, 0.0).square().sum()
        wrong = lse_difference(lse.double(), expected_lse.double()).square().sum()
        of_lse = relative_error(float(wrong), float(right))
        if of_lse is not None:
            relative = max(of_lse, relative or 0.0)
    return Difference(
        relative=None if max_abs is None else relative,
        max_abs=max_abs,
        tolerance=tolerance,
        first_position=None,
        worst=worst,
    )


def _tolerance(dtype: torch.dtype, right: AttentionCall, chosen: list[Part]) -> float:
    """Return the tolerance of a dtype.

    Angles in float32 are off by a part of their size; scores in half precision also.
    """
    if dtype == torch.float32:
        return TOLERANCES[dtype] + (0.0 if right.rope is None else 1e-7 * angles_rms(right))
    if not chosen:
        return TOLERANCES[dtype]
    uncounted = [replace(part, cost=Cost(-(2**62))) for part in chosen]  # the limit is the search's
    squares = torch.cat([_visible_scores(right, part).square() for part in uncounted])
    rms = float(squares.mean().sqrt()) if len(squares) else 0.0
    return TOLERANCES[dtype] * (1 + rms / FLAT_SCORES)


def _visible_scores(right: AttentionCall, part: Part) -> Tensor:
    """Return the scores of keys that queries see, before a mask: `[m]`."""
    hidden, _ = visibility(right, part)
    scores = products(right, part) * right.scale
    if right.softcap is not None:
        scores = (scores / right.softcap).tanh() * right.softcap
    return scores[~hidden.expand_as(scores)]


def _other_evidence(is_whole: bool) -> str:
    """Return which evidence tells more, of a search that was whole or stopped at its limit."""
    if not is_whole:
        return (
            f"send fewer keys and queries, such as the first {FEW_TOKENS}: the search stopped at "
            "the limit of its time"
        )
    return (
        "send q before and after the rotation as 'before' and 'after': that tells whether "
        "the rotation or the attention differs"
    )


def _search(search: AttentionSearch, max_mistakes: int) -> bool:
    """Find candidates; return whether the search came to its end within its limit."""
    try:
        if not search.shows_no_mistake():
            _find(search, max_mistakes)
    except CostExceeded:
        return False
    return True


def _find(search: AttentionSearch, max_mistakes: int) -> None:
    """Find candidates, with angles as the rope computes them, or else in float64."""
    searches = [search]
    if is_float32(search.right) and angles_rms(search.right) > FAR_ANGLES:
        searches.append(replace(search, right=in_float64(search.right), grids={}))
    found: list[Candidate] = []
    wrongs = []
    for one in searches:
        candidates, *others = one.singles()
        found += candidates
        wrongs.append(others)
        if search.is_settled(found):
            return
    if max_mistakes > 1:
        for one, (of_attention, of_rotation) in zip(searches, wrongs, strict=True):
            found += one.pairs(of_attention, of_rotation)
            if search.is_settled(found):
                return


def _mscale(resolved: Resolved | None) -> float | None:
    """Return the factor of YaRN in the softmax scale of a model, None if it has none."""
    if resolved is None or resolved.attention.scale is None or resolved.rope is None:
        return None
    every, factor = (resolved.parameters.get(name) for name in ("mscale_all_dim", "factor"))
    if not every or not factor or factor <= 1:
        return None
    return 0.1 * float(every) * math.log(factor) + 1.0


def _silent_rope(call: Attend, clues: Clues) -> Any:
    """Return the rope of other layers of a model whose layer does not rotate, else None."""
    resolved = clues.resolved
    if resolved is None or resolved.rope is not None or clues.resolve is None:
        return None
    for group in resolved.layers:
        if group.nope is None:
            rope = clues.resolve(layer=group.layers[0]).rope
            if rope is not None and rope.head_dim == call.q.shape[-1] and not rope.needs_length:
                return rope
    return None


def _proves_nothing(right: AttentionCall) -> str | None:
    """Return which evidence shows a mistake that this one cannot show; None if it can."""
    seen = [
        (sequence.queries.stop - sequence.queries.start, sequence.keys.stop - sequence.keys.start)
        for sequence in right.sequences
    ]
    if all(keys <= 1 for _, keys in seen):
        text = "send more than one token: the softmax of one key is 1 whatever its score is"
        return text if right.has_lse else f"{text}; and send lse"
    if right.q is None or right.k is None:
        return None
    positions = torch.cat((right.q.positions, right.k.positions), -1)
    if bool((positions == positions[:, :1]).all()):
        return "send tokens at different positions, such as 0 to 15: at equal ones nothing turns"
    return None


def _explanations(ranked: list[Candidate], right: AttentionCall) -> tuple[Explanation, ...]:
    """Return explanations, with a rope where the rotation alone is wrong."""
    plain = right.q or right.k
    expected = {
        "scale": right.scale,
        "window": right.window,
        "chunk": right.chunk,
        "softcap": right.softcap,
        "kv_heads": right.num_kv_heads,
        "group": right.num_heads // right.num_kv_heads,
    }
    explanations = explain(ranked, plain, is_rotation=False, expected=expected)
    return tuple(
        replace(explanation, rope=_rope(candidate, right))
        for candidate, explanation in zip(ranked, explanations, strict=True)
    )


def _rope(candidate: Candidate, right: AttentionCall) -> Mapping[str, Any] | None:
    """Return parameters of the rope with which the right attention gives the evidence, or None."""
    if any(MISTAKES[code].evidence == ("attention",) for code, _ in candidate.mistakes):
        return None
    call = candidate.call
    ropes = [
        reproducing_rope(wrong, of_right)
        for wrong, of_right in ((call.q, right.q), (call.k, right.k))
        if wrong is not None and of_right is not None
    ]
    return ropes[0] if ropes and all(rope == ropes[0] for rope in ropes) else None


def _ambiguity(ranked: list[Candidate]) -> str | None:
    """Return what tells the first explanations apart, None if there is one only."""
    names: dict[str, None] = {}
    for candidate in ranked:
        if len(candidate.mistakes) == len(ranked[0].mistakes):
            names[" and ".join(code for code, _ in candidate.mistakes)] = None
    if len(names) < 2:
        return None
    first, second, *_ = names
    return (
        f"send q and k before and after the rotation as 'before' and 'after': this attention does "
        f"not distinguish {first} from {second}"
    )

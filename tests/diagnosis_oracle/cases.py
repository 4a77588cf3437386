"""Random evidence: right, with one mistake or two, or that no mistake explains."""

import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tests.diagnosis_oracle import inputs
from tests.diagnosis_oracle.choices import choose
from tests.diagnosis_oracle.extra_layers import extra_layer
from tests.diagnosis_oracle.mistakes import IN_FREQUENCIES, INVISIBLE_IN_TABLE, ROTATION, wrong
from tests.diagnosis_oracle.presets import Layer, all_layers
from tests.diagnosis_oracle.rope import DTYPES, Array, Rope

Truth = tuple[tuple[str, Mapping[str, Any]], ...]
TOLERANCES = {"float32": 2e-5, "float16": 3e-3, "bfloat16": 2e-2}
VISIBLE = 3.0
"""A mistake is in a case if it changes the numbers by this many tolerances."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """Evidence, and what is wrong with it."""

    kind: str
    """rotation, table, or frequencies."""

    layer: Layer
    truth: Truth
    positions: Array
    """`[A, B, S]`."""

    before: Array
    dtype: str
    evidence: Mapping[str, Array]
    arguments: Mapping[str, Any]
    """What `diagnose` is given, beside the rope; arrays of numpy."""

    description: str = ""
    tables_dtype: str | None = None

    @property
    def tolerance(self) -> float:
        """Relative error that is no difference."""
        tolerance = TOLERANCES[self.dtype]
        if self.dtype == "float32" and self.kind != "frequencies":
            angles, _ = replace(self.layer.rope, arithmetic="float64").angles(self.positions)
            tolerance += 1e-7 * float(np.sqrt(np.mean(angles**2)))
        return tolerance

    def numbers_of(self, rope: Rope) -> dict[str, Array]:
        """Return the evidence that a rope gives, not rounded to the dtype."""
        return evidence_of(self.kind, rope, self.before, self.positions, self.tables_dtype)

    def distance(self, rope: Rope) -> float:
        """Return the relative error of the evidence from what a rope gives."""
        return relative(self.evidence, self.numbers_of(rope))

    def ropes(self, mistakes: Truth) -> list[Rope]:
        """Return the ropes that have all these mistakes, in each order."""
        found: list[Rope] = []
        for order in itertools.permutations(mistakes):
            ropes = [self.layer.rope]
            for code, parameters in order:
                ropes = [
                    other for rope in ropes for other in wrong(code, parameters, rope, self.layer)
                ]
            found += ropes
        return found

    def replay(self, mistakes: Truth) -> float:
        """Return how far the evidence is from the nearest rope that has these mistakes."""
        exact = replace(self, tables_dtype=None)
        return min((exact.distance(rope) for rope in self.ropes(mistakes)), default=np.inf)


def evidence_of(
    kind: str, rope: Rope, before: Array, positions: Array, tables_dtype: str | None
) -> dict[str, Array]:
    """Return the numbers of a rope: `after`; `cos` and `sin`; or `inv_freq`."""
    if kind == "frequencies":
        return {"inv_freq": rope.row(0)[0]}
    if kind == "table":
        cos, sin = rope.table(positions)
        return {"cos": cos, "sin": sin}
    return {"after": rope.rotate(before.astype(rope.arithmetic), positions, tables_dtype)}


def relative(got: Mapping[str, Array], expected: Mapping[str, Array]) -> float:
    """Return |got - expected| / |expected| over all tensors; infinite if shapes differ."""
    total = norm = 0.0
    for name, numbers in expected.items():
        theirs = got[name].astype(np.float64)
        if theirs.shape != numbers.shape:
            return float("inf")
        total += float(np.sum((theirs - numbers) ** 2))
        norm += float(np.sum(numbers.astype(np.float64) ** 2))
    return float(np.sqrt(total / norm)) if norm else float(total > 0) * float("inf")


@dataclass(frozen=True)
class Draw:
    """How cases are drawn: values that are not given are random."""

    kinds: Sequence[str] = ("rotation", "rotation", "table", "frequencies")
    dtypes: Sequence[str] = ("float32", "float32", "float32", "bfloat16", "float16")
    patterns: Sequence[str] = inputs.POSITIONS
    tokens: Sequence[int] = (1, 4, 16, 32, 64, 128, 256)
    heads: Sequence[int] = (1, 2, 4)
    rows: Sequence[int] = (1, 1, 2, 3)
    layers: Sequence[Layer] = field(default_factory=all_layers)
    extra: float = 0.25
    """Share of ropes that no preset has."""

    def layer(self, rng: random.Random) -> Layer:
        """Return a random layer."""
        return extra_layer(rng) if rng.random() < self.extra else rng.choice(self.layers)


def make_case(
    draw: Draw,
    layer: Layer,
    truth: Truth,
    kind: str,
    rng: random.Random,
) -> Case:
    """Return a case with random inputs, whose evidence has the mistakes of `truth`."""
    arrays = inputs.seeded(rng)
    codes = [code for code, _ in truth]
    dtype = "float32" if kind == "frequencies" else rng.choice(draw.dtypes)
    rows, tokens = rng.choice(draw.rows), rng.choice(draw.tokens)
    num_heads = rng.choice(draw.heads)
    pattern = rng.choice(draw.patterns)
    if "padding_counted" in codes:
        pattern, rows, tokens = "left padded", max(rows, 2), max(tokens, 8)
    if "axis_mistaken" in codes:
        rows, num_heads, pattern = rng.choice([2, 3, 5]), max(num_heads, 2), "from 0"
    if "longrope_other_list" in codes or "4.57" in layer.types:
        pattern = rng.choice(["from 0", "long"])
    if layer.rope.kind == "dynamic" and pattern == "from 0" and rng.random() < 0.5:
        pattern = "long"
    if layer.rope.scheme:
        at = inputs.three_axes(rows, max(tokens, 16), arrays, pattern == "from 0" and not truth)
        tokens = at.shape[-1]
    else:
        at = inputs.positions(pattern, rows, tokens, arrays)[None]
    heads = rng.choice(inputs.HEADS) if kind == "rotation" else "normal"
    shape = (rows, tokens, num_heads, layer.rope.head_dim)
    before = inputs.heads(heads, shape, arrays) if kind == "rotation" else np.zeros((1, 1, 1, 1))
    before = before.astype(DTYPES[dtype]).astype(np.float64)
    tables = dtype if dtype != "float32" and rng.random() < 0.5 and kind == "rotation" else None
    arithmetic = rng.choice(["float64", "float32"])
    rounded_layer = replace(layer, rope=replace(layer.rope, arithmetic=arithmetic))
    case = Case(
        kind=kind,
        layer=rounded_layer,
        truth=truth,
        positions=at,
        before=before,
        dtype=dtype,
        evidence={},
        arguments={},
        tables_dtype=tables,
        description=f"{layer.name}, {kind}, {pattern}, {heads}, {dtype}, {arithmetic}, {shape}",
    )
    ropes = case.ropes(truth)
    if not ropes:
        return case
    numbers = case.numbers_of(rng.choice(ropes))
    evidence = {name: x.astype(DTYPES[dtype]) for name, x in numbers.items()}
    case = replace(case, evidence=evidence, layer=layer)
    return replace(case, arguments=arguments_of(case, rng))


def arguments_of(case: Case, rng: random.Random) -> dict[str, Any]:
    """Return the arguments of `diagnose` in one of the forms that it takes."""
    if case.kind == "frequencies":
        return dict(case.evidence)
    at = case.positions
    several = len(at) > 1 or case.layer.rope.scheme is not None
    positions: Any = at if several else at[0]
    tensors = dict(case.evidence)
    if case.kind == "rotation":
        tensors = {"before": case.before.astype(DTYPES[case.dtype]), **tensors}
    elif not several and rng.random() < 0.5:
        halves = rng.random() < 0.5
        tensors = {
            name: np.concatenate([x, x], -1) if halves else np.repeat(x, 2, -1)
            for name, x in tensors.items()
        }
    if not several and at.shape[1] == 1 and rng.random() < 0.5:
        tensors = {name: x[0] for name, x in tensors.items()}
        positions = positions[0]
    elif not several and (at == at[:, :1]).all() and rng.random() < 0.5:
        positions = positions[0]
        if case.kind == "table":
            tensors = {name: x[0] for name, x in tensors.items()}
    arguments: dict[str, Any] = {**tensors, "positions": positions}
    is_count = not several and (at[0] == np.arange(at.shape[-1])).all()
    if is_count and rng.random() < 0.3:
        del arguments["positions"]
    return arguments


def right_case(draw: Draw, rng: random.Random) -> Case:
    """Return a case without mistake."""
    while True:
        layer, kind = draw.layer(rng), rng.choice(draw.kinds)
        if layer.rotates or kind == "rotation":
            return make_case(draw, layer, (), kind, rng)


def pair_case(draw: Draw, rng: random.Random) -> Case:
    """Return a case with two random mistakes."""
    while True:
        case = wrong_case(draw, rng.sample(ROTATION, 2), rng)
        if case is not None:
            return case


def single_case(draw: Draw, code: str, rng: random.Random) -> Case | None:
    """Return a case with one mistake; None if none was found."""
    for _ in range(20_000):
        case = wrong_case(draw, [code], rng)
        if case is not None:
            return case
    return None


def wrong_case(draw: Draw, codes: Sequence[str], rng: random.Random) -> Case | None:
    """Return a case with these mistakes; None if they do not show in what was drawn."""
    layer, kind = draw.layer(rng), rng.choice(draw.kinds)
    if any(not can_show(code, kind, layer) for code in codes):
        return None
    truth = []
    for code in codes:
        parameters = choose(code, layer, rng)
        if parameters is None:
            return None
        truth.append((code, parameters))
    case = make_case(draw, layer, tuple(truth), kind, rng)
    if not case.evidence or not all(np.isfinite(x).all() for x in case.evidence.values()):
        return None
    if "longrope_other_list" in codes:
        is_long = case.positions.max() >= layer.rope.numbers["original_max_position_embeddings"]
        is_long = is_long and kind != "frequencies"
        name = "short" if is_long else "long"
        known = {**dict(truth), "longrope_other_list": {"list": name}}
        case = replace(case, truth=tuple(known.items()))
    return case if shows(case) else None


def can_show(code: str, kind: str, layer: Layer) -> bool:
    """Say whether a kind of evidence can show a mistake."""
    if kind == "frequencies":
        return code in IN_FREQUENCIES
    return kind == "rotation" or (code not in INVISIBLE_IN_TABLE and layer.rotates)


def shows(case: Case) -> bool:
    """Say whether no fewer mistakes explain a case."""
    needed = VISIBLE * case.tolerance
    fewer = [()] if len(case.truth) == 1 else [(), *((one,) for one in case.truth)]
    return case.replay(case.truth) < case.tolerance and all(
        case.replay(some) > needed for some in fewer
    )


def strange_case(draw: Draw, rng: random.Random) -> Case:
    """Return a case that no mistake explains."""
    arrays = inputs.seeded(rng)
    sizes = replace(draw, tokens=(16, 64, 256), dtypes=("float32",), kinds=("rotation",))
    case = right_case(sizes, rng)
    after = case.evidence["after"].astype(np.float64)
    width = after.shape[-1]
    ways = ["noise", "orthogonal", "orthogonal per token", "angles", "wrong and noise"]
    way = rng.choice(ways)
    match way:
        case "noise":
            after = after + 0.01 * np.std(after) * arrays.standard_normal(after.shape)
        case "orthogonal":
            turn, _ = np.linalg.qr(arrays.standard_normal((width, width)))
            after = case.before @ turn
        case "orthogonal per token":
            turns, _ = np.linalg.qr(arrays.standard_normal((after.shape[1], width, width)))
            after = np.einsum("bshd,sde->bshe", case.before, turns)
        case "angles":
            angles = arrays.uniform(-np.pi, np.pi, (*after.shape[:2], 1, width // 2))
            a, b = case.before[..., : width // 2], case.before[..., width // 2 : width // 2 * 2]
            after = np.array(case.before)
            after[..., : width // 2] = a * np.cos(angles) - b * np.sin(angles)
            after[..., width // 2 : width // 2 * 2] = a * np.sin(angles) + b * np.cos(angles)
        case _:
            other = replace(case.layer.rope, theta=case.layer.rope.theta * 3)
            after = other.rotate(case.before, case.positions)
            after = after + 0.01 * np.std(after) * arrays.standard_normal(after.shape)
    evidence = {"after": after.astype(np.float32)}
    shown = replace(case, evidence=evidence, description=f"{way}: {case.description}")
    return replace(shown, arguments=arguments_of(shown, rng))

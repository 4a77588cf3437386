"""What a variant of RoPE costs: kept as a value, made anew for each call, and its tables.

A small rotation by each spec takes turns with the same call of a plain default spec, and with the
same rotation by tables made beforehand: `adds us` is what the spec adds to either.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from benchmarks import oracle
from benchmarks.case import Case, Sizes
from benchmarks.timing import Run
from rope_core import CosSin, RopeConfig, Rotate, Rotated, Table, cos_sin, resolve, rotary, rotate
from rope_core.presets import built_in

SHAPE = (1, 16, 8, 64)
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LONGROPE = {"factor": 32.0, "short_factor": (1.0,) * 32, "long_factor": (2.0,) * 32}
SCALED: dict[str, dict[str, Any]] = {
    "default": {},
    "llama3": {"rope_type": "llama3", **LLAMA3, "original_max_position_embeddings": 8192},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
    "longrope": {"rope_type": "longrope", **LONGROPE, "original_max_position_embeddings": 4096},
    "M-RoPE, text": {"axes": "mrope", "mrope_section": (8, 12, 12)},
    "M-RoPE, 3 axes": {"axes": "mrope", "mrope_section": (8, 12, 12)},
}


def cases(sizes: Sizes) -> Iterator[Case]:
    """Yield the cases."""
    plain = RopeConfig.of(SHAPE[-1])
    for name, given in SCALED.items():
        yield from _kept(name, RopeConfig.of(SHAPE[-1], **given), plain)
    config = built_in()["llama-3.2-1b"].config
    read = resolve(config).rope
    assert read is not None
    hf = replace(plain, arithmetic=read.arithmetic, rounding=read.rounding)
    yield from _kept("llama3 from config.json, hf", read, hf)
    yield from _anew(config)
    yield _tables(sizes.table)


def _kept(name: str, rope: RopeConfig, plain: RopeConfig) -> Iterator[Case]:
    asked = _Asked(rope, 3 if name == "M-RoPE, 3 axes" else 1)
    title = f"rotate {list(SHAPE)}, {name}"
    case = Case(title, asked.run(rope), asked.check, "plain default", asked.run(plain), asked.bytes)
    if rope != plain:
        text = _Asked(plain)
        yield replace(case, floor=text.run(plain))
    yield replace(case, floor_name="tables beforehand", floor=asked.by_tables())


def _anew(config: dict[str, object]) -> Iterator[Case]:
    given = SCALED["llama3"]
    kept = RopeConfig.of(SHAPE[-1], **given)
    asked, theta = _Asked(kept), itertools.count(500_000)

    def read() -> RopeConfig:
        rope = resolve(config).rope
        assert rope is not None
        return rope

    hf = _Asked(read())
    for name, make, on in (
        ("llama3 made anew", lambda: RopeConfig.of(SHAPE[-1], **given), asked),
        ("llama3 never seen", lambda: RopeConfig.of(SHAPE[-1], theta=next(theta), **given), asked),
        ("config.json read anew", read, hf),
    ):
        title = f"rotate {list(SHAPE)}, {name}"
        yield Case(title, on.made_by(make), on.check, "kept", on.run(on.rope), on.bytes)


class _Asked:
    """A small rotation, and what it shall come to."""

    def __init__(self, rope: RopeConfig, num_axes: int = 1) -> None:
        self.rope = rope
        self.q = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
        self.at = torch.arange(20, 20 + SHAPE[1])
        if num_axes > 1:
            self.at = torch.stack([self.at + axis for axis in range(num_axes)])[:, None]
        self.out = Rotated(torch.empty_like(self.q), None)
        self.bytes = 2.0 * self.q.nbytes

    def run(self, rope: RopeConfig) -> Run:
        return lambda: rotate(Rotate(self.q, None, rope, self.at), self.out)

    def made_by(self, make: Callable[[], RopeConfig]) -> Run:
        return lambda: rotate(Rotate(self.q, None, make(), self.at), self.out)

    def by_tables(self) -> Run:
        with torch.inference_mode():
            rope = Rotate(self.q, None, self.rope, self.at).rope
            angles = rotary.token_angles(self.q, self.at, None, rope)
        rotate_by = torch.inference_mode()(rotary.rotate_by)
        return lambda: rotate_by((self.q,), angles, rope, False, (self.out.q,))

    def check(self) -> None:
        rope = Rotate(self.q, None, self.rope, self.at).rope
        columns = rope.columns
        at = self.at.double().view(-1, SHAPE[1])
        own = at[0][:, None] if columns.axis is None or len(at) == 1 else at[columns.axis].mT
        assert self.out.q is not None
        for run in (self.run(self.rope), self.by_tables()):
            self.out.q.fill_(torch.nan)
            run()
            expected = oracle.turn(self.q[0], own * columns.inv_freq) * rope.attention_scaling
            oracle.check(f"rotate by {self.rope}", self.out.q[0], expected)


def _tables(length: int) -> Case:
    rope = RopeConfig.of(128, theta=500_000.0, **SCALED["llama3"])
    call = CosSin(torch.arange(length), rope)

    @torch.inference_mode()
    def bare() -> tuple[Tensor, Tensor]:
        radians = torch.outer(call.positions.double(), frequencies)
        return radians.cos(), radians.sin()

    def check() -> None:
        found: Table = cos_sin(call)
        for table, expected in zip((found.cos, found.sin), bare(), strict=True):
            oracle.check("tables of llama3", table, expected)

    frequencies = torch.tensor(_llama3_frequencies(), dtype=torch.float64)
    title = f"tables of llama3 [{length}, 64]"
    work = 8.0 * length * rope.half
    return Case(title, lambda: cos_sin(call), check, "outer, cos, sin", bare, work)


def _llama3_frequencies() -> list[float]:
    """Return what the model card's formula gives, without the library."""
    found = []
    for pair in range(64):
        plain = 500_000.0 ** (-pair / 64)
        turns = 8192 * plain / (2 * math.pi)
        kept = min(1.0, max(0.0, (turns - 1) / (4 - 1)))
        found.append(kept * plain + (1 - kept) * plain / 8)
    return found

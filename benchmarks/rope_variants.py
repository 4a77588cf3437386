"""The cost of each RoPE variant: with a config that is reused, with a new config, and its tables.

A small rotation with each config is interleaved with the same call with a plain default config, and
with the same rotation by precomputed angles. `adds us` is what the config costs beyond either.
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
from benchmarks.timing import Function
from rope_core import (
    CosSin,
    RopeConfig,
    Rotate,
    Rotated,
    Table,
    angles,
    backends,
    cos_sin,
    resolve,
    rotary,
    rotate,
)
from rope_core.presets import built_in

SHAPE = (1, 16, 8, 64)
FIRST_POSITION = 20
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LONGROPE = {"factor": 32.0, "short_factor": (1.0,) * 32, "long_factor": (2.0,) * 32}
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "llama3": {"rope_type": "llama3", **LLAMA3, "original_max_position_embeddings": 8192},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
    "longrope": {"rope_type": "longrope", **LONGROPE, "original_max_position_embeddings": 4096},
    "M-RoPE, text": {"axes": "mrope", "mrope_section": (8, 12, 12)},
    "M-RoPE, 3 axes": {"axes": "mrope", "mrope_section": (8, 12, 12)},
}


def cases(sizes: Sizes) -> Iterator[Case]:
    """Yield the cases."""
    default = RopeConfig.of(SHAPE[-1])
    for name, params in VARIANTS.items():
        yield from _reused_config(name, RopeConfig.of(SHAPE[-1], **params), default)
    config_json = built_in()["llama-3.2-1b"].config
    rope = _resolve(config_json)
    hf_default = replace(default, arithmetic=rope.arithmetic, rounding=rope.rounding)
    yield from _reused_config("llama3 from config.json, hf", rope, hf_default)
    yield from _new_config(config_json)
    yield _tables(sizes.table_length)


def _resolve(config_json: dict[str, object]) -> RopeConfig:
    rope = resolve(config_json).rope
    assert rope is not None
    return rope


def _reused_config(name: str, rope: RopeConfig, default: RopeConfig) -> Iterator[Case]:
    rotation = _SmallRotation(rope, 3 if name == "M-RoPE, 3 axes" else 1)
    case = Case(
        f"rotate {list(SHAPE)}, {name}",
        rotation.with_config(rope),
        rotation.check,
        "plain default",
        rotation.with_config(default),
        rotation.num_bytes,
    )
    if rope != default:
        yield replace(case, floor=_SmallRotation(default).with_config(default))
    yield replace(case, floor_name="precomputed angles", floor=rotation.with_precomputed_angles())


def _new_config(config_json: dict[str, object]) -> Iterator[Case]:
    params = VARIANTS["llama3"]
    theta = itertools.count(500_000)
    llama3 = _SmallRotation(RopeConfig.of(SHAPE[-1], **params))
    for name, create, rotation in (
        ("llama3, new equal config", lambda: RopeConfig.of(SHAPE[-1], **params), llama3),
        (
            "llama3, new theta",
            lambda: RopeConfig.of(SHAPE[-1], theta=next(theta), **params),
            llama3,
        ),
        (
            "config.json resolved again",
            lambda: _resolve(config_json),
            _SmallRotation(_resolve(config_json)),
        ),
    ):
        yield Case(
            f"rotate {list(SHAPE)}, {name}",
            rotation.with_new_config(create),
            rotation.check,
            "reused config",
            rotation.with_config(rotation.rope),
            rotation.num_bytes,
        )


class _SmallRotation:
    """A rotation of q `SHAPE`, its expected result, and ways to call it."""

    def __init__(self, rope: RopeConfig, num_axes: int = 1) -> None:
        self.rope = rope
        self.q = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
        self.positions = torch.arange(FIRST_POSITION, FIRST_POSITION + SHAPE[1])
        if num_axes > 1:
            axes = [self.positions + axis for axis in range(num_axes)]
            self.positions = torch.stack(axes)[:, None]
        self.out = Rotated(torch.empty_like(self.q), None)
        self.num_bytes = 2.0 * self.q.nbytes

    def with_config(self, rope: RopeConfig) -> Function:
        return lambda: rotate(Rotate(self.q, None, rope, self.positions), self.out)

    def with_new_config(self, create: Callable[[], RopeConfig]) -> Function:
        return lambda: rotate(Rotate(self.q, None, create(), self.positions), self.out)

    def with_precomputed_angles(self) -> Function:
        with torch.inference_mode():
            rope = Rotate(self.q, None, self.rope, self.positions).rope
            table = angles.token_angles(self.q, self.positions, None, rope)
            work, _ = rotary.rotary_work((self.q,), (self.out.q,), table, rope)
        run_work = torch.inference_mode()(backends.run)
        return lambda: run_work(work)

    def check(self) -> None:
        rope = Rotate(self.q, None, self.rope, self.positions).rope
        table = rope.frequency_table
        positions = self.positions.double().view(-1, SHAPE[1])  # [axes, S]
        if table.axis is None or len(positions) == 1:
            pair_positions = positions[0][:, None]
        else:
            pair_positions = positions[table.axis].mT  # [S, pairs]
        radians = pair_positions * table.inv_freq
        expected = oracle.rotate_by_angles(self.q[0], radians) * rope.attention_scaling
        assert self.out.q is not None
        for run in (self.with_config(self.rope), self.with_precomputed_angles()):
            self.out.q.fill_(torch.nan)
            run()
            oracle.check(f"rotate by {self.rope}", self.out.q[0], expected)


def _tables(length: int) -> Case:
    rope = RopeConfig.of(128, theta=500_000.0, **VARIANTS["llama3"])
    call = CosSin(torch.arange(length), rope)
    inv_freq = torch.tensor(_llama3_inv_freq(), dtype=torch.float64)

    @torch.inference_mode()
    def plain() -> tuple[Tensor, Tensor]:
        radians = torch.outer(call.positions.double(), inv_freq)
        return radians.cos(), radians.sin()

    def check() -> None:
        table: Table = cos_sin(call)
        for actual, expected in zip((table.cos, table.sin), plain(), strict=True):
            oracle.check("tables of llama3", actual, expected)

    title = f"tables of llama3 [{length}, 64]"
    work = 8.0 * length * rope.half
    return Case(title, lambda: cos_sin(call), check, "outer, cos, sin", plain, work)


def _llama3_inv_freq() -> list[float]:
    """Return the frequencies by the formula of the model card; does not call the library."""
    inv_freq = []
    for pair in range(64):
        unscaled = 500_000.0 ** (-pair / 64)
        rotations = 8192 * unscaled / (2 * math.pi)
        smooth = min(1.0, max(0.0, (rotations - 1) / (4 - 1)))
        inv_freq.append(smooth * unscaled + (1 - smooth) * unscaled / 8)
    return inv_freq

"""Ropes that no preset has: parameters, and configs that two versions read apart."""

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tests.diagnosis_oracle.presets import Layer
from tests.diagnosis_oracle.rope import Rope


def extra_layer(rng: random.Random) -> Layer:
    """Return a random rope that no preset has."""
    return rng.choice(MAKERS)(rng)


def _layer(rope: Rope, **given: Any) -> Layer:
    values = {"head_dim": rope.head_dim, "theta": rope.theta, **rope.numbers, **given}
    if rope.rotary_dim != rope.head_dim:
        values["rotary_dim"] = rope.rotary_dim
    if rope.kind != "default":
        values["rope_type"] = rope.kind
    if rope.pairs != "half":
        values["layout"] = rope.pairs
    return Layer(name=f"{rope.kind} {values}"[:90], given=values, rope=rope)


def _plain(rng: random.Random) -> Rope:
    head_dim = rng.choice([32, 64, 80, 96, 128, 192, 256])
    pairs = rng.choice(["half", "half", "interleaved", "interleaved_to_half"])
    theta = rng.choice([1e4, 5e5, 1e6, 123_456.0, 1e8, 100.0])
    return Rope(head_dim=head_dim, rotary_dim=head_dim, theta=theta, pairs=pairs)


def _default(rng: random.Random) -> Layer:
    rope = _plain(rng)
    return _layer(replace(rope, rotary_dim=rng.choice([rope.head_dim, 2 * (rope.head_dim // 4)])))


def _trailing(rng: random.Random) -> Layer:
    rope = _plain(rng)
    d = 2 * rng.choice([rope.head_dim // 4, rope.head_dim // 8])
    return _layer(replace(rope, rotary_dim=d, start=rope.head_dim - d), trailing=True)


def _negative(rng: random.Random) -> Layer:
    return _layer(replace(_plain(rng), sign=-1), negative=True)


def _proportional(rng: random.Random) -> Layer:
    numbers = {"partial_rotary_factor": rng.choice([0.25, 0.5])}
    rope = replace(_plain(rng), head_dim=256, rotary_dim=256, theta=1e6, pairs="half")
    return _layer(replace(rope, kind="proportional", numbers=numbers))


def _scaled(kind: str) -> Callable[[random.Random], Layer]:
    def make(rng: random.Random) -> Layer:
        numbers: dict[str, Any] = {"factor": rng.choice([2.0, 4.0, 8.0, 32.0])}
        trained = rng.choice([512, 2048, 4096, 8192, 32768])
        if kind in ("yarn", "llama3"):
            numbers["original_max_position_embeddings"] = trained
        if kind == "llama3":
            numbers |= {"low_freq_factor": 1.0, "high_freq_factor": rng.choice([2.0, 4.0])}
        if kind == "yarn" and rng.random() < 0.3:
            numbers["truncate"] = False
        if kind == "yarn" and rng.random() < 0.3:
            numbers["attention_factor"] = rng.choice([1.0, 1.25])
        if kind == "dynamic":
            numbers["max_position_embeddings"] = trained
        return _layer(replace(_plain(rng), kind=kind, numbers=numbers))

    return make


def _longrope(rng: random.Random) -> Layer:
    rope = _plain(rng)
    n = rope.rotary_dim // 2
    numbers = {
        "short_factor": tuple(1 + 0.02 * i for i in range(n)),
        "long_factor": tuple(1 + 0.9 * i for i in range(n)),
        "original_max_position_embeddings": 4096,
        "factor": rng.choice([8.0, 32.0]),
    }
    return _layer(replace(rope, kind="longrope", numbers=numbers))


def _olmo3(rng: random.Random) -> Layer:
    """Sliding layers of a file with a legacy base: transformers 5 ignores the base."""
    theta = rng.choice([1e4, 1e6, 2e6])
    config = {
        "model_type": "olmo3",
        "hidden_size": 4096,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "rope_theta": theta,
        "max_position_embeddings": 8192,
    }
    rope = Rope(head_dim=128, rotary_dim=128, theta=5e5, most=8192)
    given = {"config": config, "layer_type": "sliding_attention"}
    full = replace(rope, theta=theta)
    types = {"full_attention": full, "4.57": full}
    return Layer(name="olmo3 legacy", given=given, rope=rope, types=types)


def _phimoe(rng: random.Random) -> Layer:
    """Long calls: transformers 5 takes the short factors, with the long gain."""
    n = 32
    short, long = [1 + 0.01 * i for i in range(n)], [1 + 1.1 * i for i in range(n)]
    block = {
        "type": "longrope",
        "short_factor": short,
        "long_factor": long,
        "short_mscale": 1.25,
        "long_mscale": 1.25,
        "original_max_position_embeddings": 4096,
    }
    config = {
        "model_type": "phimoe",
        "hidden_size": 2048,
        "num_attention_heads": 32,
        "head_dim": 64,
        "max_position_embeddings": 131072,
        "original_max_position_embeddings": 4096,
        "rope_theta": 10000.0,
        "rope_scaling": block,
    }
    numbers = {**block, "max_position_embeddings": 131072}
    rope = Rope(head_dim=64, rotary_dim=64, kind="longrope", numbers=numbers, most=131072)
    right = replace(rope, numbers={**numbers, "long_factor": short})
    return Layer(name="phimoe", given={"config": config}, rope=right, types={"4.57": rope})


MAKERS: list[Callable[[random.Random], Layer]] = [
    *(_default, _trailing, _negative, _proportional, _longrope, _olmo3, _phimoe),
    *map(_scaled, ("linear", "ntk", "dynamic", "yarn", "llama3")),
]

"""Random positions and heads, as models, servers and tests have them."""

import random

import numpy as np

from tests.diagnosis_oracle.rope import Array

POSITIONS = (
    "from 0",
    "from 0",
    "offset",
    "decode",
    "ragged",
    "repeated",
    "descending",
    "packed",
    "random",
    "left padded",
    "long",
)
HEADS = ("normal", "normal", "uniform", "one-hot", "outliers", "zero rows")


def positions(pattern: str, rows: int, tokens: int, rng: np.random.Generator) -> Array:
    """Return positions `[B, S]` of a pattern."""
    count = np.arange(tokens)
    shape = (rows, tokens)
    match pattern:
        case "from 0":
            at = np.broadcast_to(count, shape)
        case "offset":
            at = np.broadcast_to(count + rng.integers(1, 9000), shape)
        case "decode":
            at = np.broadcast_to(5000 + count, shape)
        case "ragged":
            at = count + rng.integers(0, 3000, (rows, 1))
        case "repeated":
            at = np.broadcast_to(count // 4, shape)
        case "descending":
            at = np.broadcast_to(count[::-1], shape)
        case "packed":
            at = np.broadcast_to(count % max(1, tokens // 3 + 1), shape)
        case "random":
            at = rng.integers(0, 30_000, shape)
        case "left padded":
            return padded(rows, tokens, rng)
        case "long":
            at = np.sort(rng.integers(0, 100_000, shape), axis=1)
        case _:
            raise ValueError(pattern)
    return np.array(at)


def padded(rows: int, tokens: int, rng: np.random.Generator) -> Array:
    """Return positions of rows that are padded on the left; padded slots have a constant."""
    pads = rng.integers(0, max(1, tokens // 2), (rows, 1))
    pads[0] = max(1, tokens // 3)
    at = np.arange(tokens) - pads
    return np.where(at < 0, int(rng.integers(0, 2)), at)


def three_axes(rows: int, tokens: int, rng: np.random.Generator, text: bool = False) -> Array:
    """Return positions `[3, B, S]`: text, an image, text."""
    count = np.arange(tokens)
    if text:
        return np.broadcast_to(count, (3, rows, tokens)).copy()
    before, side = tokens // 4, max(1, int((tokens // 2) ** 0.5))
    image = side * (side + 1)
    inside = (count >= before) & (count < before + image)
    along = np.clip(count - before, 0, image - 1)
    start = int(rng.integers(0, 500))
    after = count - image + side + 1
    plain = np.where(count < before, count, after)
    frames = np.where(inside, before, plain)
    height = np.where(inside, before + along // (side + 1), plain)
    width = np.where(inside, before + along % (side + 1), plain)
    at = np.stack([frames, height, width]) + start
    return np.broadcast_to(at[:, None], (3, rows, tokens)).copy()


def heads(kind: str, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Return heads `[B, S, H, D]`."""
    x = rng.standard_normal(shape)
    match kind:
        case "uniform":
            x = rng.uniform(-1, 1, shape)
        case "one-hot":
            x = np.zeros(shape)
            hot = rng.integers(0, shape[-1], shape[:-1])
            np.put_along_axis(x, hot[..., None], 1.0, -1)
        case "outliers":
            x[..., rng.integers(0, shape[-1], 3)] *= 30
        case "zero rows":
            x[rng.random(shape[:2]) < 0.3] = 0.0
    return x


def seeded(rng: random.Random) -> np.random.Generator:
    """Return a generator of numpy that follows `rng`."""
    return np.random.default_rng(rng.getrandbits(64))

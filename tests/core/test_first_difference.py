"""The first position at which cosines differ, against a scan of all positions in numpy."""

import math

import numpy as np
import pytest
import torch

from rope_core.comparison.first_difference import first_difference

LIMIT, TOLERANCE = 4_000, 1e-3


def scan(frequencies, others, start=1, limit=LIMIT):
    """Return the first position that differs, by trying all."""
    positions = np.arange(start, limit + 1, dtype=np.float64)[:, None]
    apart = np.abs(np.cos(positions * frequencies) - np.cos(positions * others)).max(1) > TOLERANCE
    return start + int(apart.argmax()) if apart.any() else None


def found(frequencies, others, start=1, limit=LIMIT):
    pair = torch.tensor(frequencies, dtype=torch.float64), torch.tensor(others, dtype=torch.float64)
    return first_difference(*pair, start=start, limit=limit, tolerance=TOLERANCE)


def near(v, rng):
    return v * (1 + 10 ** rng.uniform(-6, 0, len(v)) * rng.choice([-1, 1], len(v)))


DRAWS = {
    "of near frequencies": lambda rng, n: (v := 10 ** rng.uniform(-8, 0.5, n), near(v, rng)),
    "of any frequencies": lambda rng, n: tuple(10 ** rng.uniform(-7, 0, (2, n))),
    "of slow frequencies": lambda rng, n: tuple(10 ** rng.uniform(-9, -5, (2, n))),
    "against none": lambda rng, n: (10 ** rng.uniform(-7, 1, n), np.zeros(n)),
    "of opposite directions": lambda rng, n: (v := 10 ** rng.uniform(-7, 0, n), -near(v, rng)),
    "of fast frequencies": lambda rng, n: (
        v := rng.uniform(0, 4000, n),
        v + 10 ** rng.uniform(-8, 0, n),
    ),
    "a whole turn apart": lambda rng, n: (
        v := rng.uniform(0, 3, n),
        v + 2 * np.pi * rng.integers(-3, 4, n) + 10 ** rng.uniform(-9, -3, n),
    ),
    "near fractions of pi": lambda rng, n: (
        v := np.pi / rng.integers(1, 7, n) + 10 ** rng.uniform(-12, -6, n),
        v + 10 ** rng.uniform(-8, -5, n),
    ),
}


@pytest.mark.parametrize("draw", DRAWS)
def test_random_pairs(draw):
    rng = np.random.default_rng(17)
    for _ in range(20):
        frequencies, others = DRAWS[draw](rng, rng.integers(1, 5))
        assert found(frequencies, others) == scan(frequencies, others)


def test_start_and_limit_are_kept():
    frequencies, others = np.array([0.3]), np.array([0.3001])
    first = scan(frequencies, others)
    assert found(frequencies, others, limit=first) == first
    assert found(frequencies, others, limit=first - 1) is None
    for start in (first, first + 1, first + 50):
        assert found(frequencies, others, start=start) == scan(frequencies, others, start)


def test_a_small_difference_is_found_at_a_far_position():
    """1 - cos(p w) is above 1e-3 from p = acos(0.999) / w on."""
    frequency = 1e-8
    position = math.floor(math.acos(1 - TOLERANCE) / frequency) + 1
    assert found([frequency], [0.0], limit=2**24) == position
    assert found([1e-9], [0.0], limit=2**24) is None


def test_equal_frequencies_never_differ():
    for frequencies in ([0.0], [1.0], [math.pi], [1e18]):
        assert found(frequencies, frequencies, limit=2**24) is None

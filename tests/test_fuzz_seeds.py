"""Run the fuzz targets on all stored seeds."""

from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS

SEEDS = sorted((Path(__file__).parent / "fuzz" / "seeds").glob("*/*"))


@pytest.mark.parametrize("seed", SEEDS, ids=lambda seed: f"{seed.parent.name}/{seed.name}")
def test_the_property_holds(seed):
    TARGETS[seed.parent.name](seed.read_bytes())


def test_each_target_has_seeds():
    assert {seed.parent.name for seed in SEEDS} == TARGETS.keys()

"""Calls whose kernels are missing, and a server's queue of builds."""

import torch

from rope_core import Attend, Merge, RopeConfig, Rotate
from tests.core.oracle import randn

ROPE = RopeConfig.of(16)


class Builds(dict):
    """The builds that a server was handed; a test runs them by `build`."""

    def __call__(self, key, build):
        self[key] = build

    def build(self):
        for build in self.values():
            build()
        self.clear()


def rotation(**options):
    return Rotate(
        randn(3, 4, 16), randn(3, 2, 16, seed=1), ROPE, torch.tensor([5, 0, 70]), **options
    )


def tables():
    """Return a rotation whose kernel reads a table of angles."""
    call = rotation()
    return Rotate(call.q, call.k, RopeConfig.of(16, arithmetic="hf"), call.positions)


def attention(**options):
    """Return a call of two kernels: decode and merge."""
    return Attend(
        randn(1, 4, 16), randn(9, 2, 16, seed=1), randn(9, 2, 16, seed=2), None, **options
    )


def parts():
    return Merge(randn(3, 5, 16), randn(3, 5, seed=1))

"""Widths of heads that have kernels."""

import pytest

from rope_core import Merge, NoBackend, RopeConfig, Rotate, merge, rotate
from rope_core.backends import fused
from rope_core.hf import resolve
from rope_core.presets import built_in
from tests.core.oracle import randn


@pytest.mark.parametrize(
    ("rope", "text"),
    [
        (RopeConfig.of(24), "heads are 24 wide"),
        (RopeConfig.of(272), "heads are 272 wide"),
        (RopeConfig.of(32, rotary_dim=30), "rotary_dim is 30"),
    ],
)
@pytest.mark.usefixtures("interpreted")
def test_rotations_of_other_widths_have_no_kernels(rope, text):
    """The number of kernels that clients can request is bounded."""
    with pytest.raises(NoBackend, match=text):
        rotate(Rotate(randn(2, 1, rope.head_dim), None, rope), backend="fused")


@pytest.mark.usefixtures("fused_on_cpu")
def test_parts_of_other_widths_have_no_kernels(builds):
    """A kernel for 65,536 elements takes 16 s to compile, and one for 10^6 never ended."""
    for width in (17, 65_536):
        odd = Merge(randn(2, 1, width), randn(2, 1))
        assert merge(odd).backend == "eager"
        with pytest.raises(NoBackend, match=f"no kernels for heads of width {width}"):
            merge(odd, backend="fused")
    assert not builds


def test_widths_of_all_presets_have_kernels():
    ropes = {name: resolve(preset.config, layer=0).rope for name, preset in built_in().items()}
    widths = {name: (rope.head_dim, rope.rotary_dim) for name, rope in ropes.items() if rope}
    assert {name for name, pair in widths.items() if fused.why_not_width(*pair)} == set()
    assert len(widths) > 80

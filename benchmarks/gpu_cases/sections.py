"""What runs together, in the order in which it runs; the longest last."""

from benchmarks.gpu_cases import decode, floors, merging, prefill, rotation, small
from benchmarks.gpu_cases.case import Make
from benchmarks.gpu_cases.sizes import DRY, FULL

SECTIONS = {
    "floors": floors.cases,
    "rotation": rotation.cases,
    "merging": merging.cases,
    "decode": decode.cases,
    "small": small.cases,
    "fused": prefill.fused,
    "ragged": prefill.ragged,
    "dense": prefill.dense,
}


def wanted(section: str, only: str, dry: bool) -> list[tuple[str, Make]]:
    """Return the cases of a section whose name has `only` in it; nothing is made yet."""
    return [(name, make) for name, make in SECTIONS[section](DRY if dry else FULL) if only in name]

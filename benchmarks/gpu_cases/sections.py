"""What runs together, in the order in which it runs; what takes longest to build comes last."""

from benchmarks.first_run import service
from benchmarks.gpu_cases import (
    append,
    builds,
    copies,
    decode,
    floors,
    host_blocking,
    merge,
    prefill,
    rotation,
    single_token,
)
from benchmarks.gpu_cases.case import Make
from benchmarks.gpu_cases.sizes import DRY, FULL

SECTIONS = {
    "floors": floors.cases,
    "builds": builds.cases,
    "copies": copies.cases,
    "host waits": host_blocking.cases,
    "service": service.cases,
    "rotation": rotation.cases,
    "merging": merge.cases,
    "decode": decode.cases,
    "append": append.cases,
    "small": single_token.cases,
    "fused": prefill.fused,
    "ragged": prefill.ragged,
    "masked": prefill.masked,
    "dense": prefill.dense,
    "grouped": prefill.grouped,
    "compiled": rotation.compiled,
}


def wanted(section: str, only: str, dry: bool) -> list[tuple[str, Make]]:
    """Return the cases of a section whose name has `only` in it; nothing is made yet."""
    return [(name, make) for name, make in SECTIONS[section](DRY if dry else FULL) if only in name]

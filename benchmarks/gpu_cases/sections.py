"""Sections of `benchmarks.gpu` in the order in which they run; the slowest to compile is last."""

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
from benchmarks.gpu_cases.case import CaseFactory
from benchmarks.gpu_cases.sizes import DRY_RUN, FULL

SECTIONS = {
    "floors": floors.cases,
    "builds": builds.cases,
    "copies": copies.cases,
    "host blocking": host_blocking.cases,
    "service": service.cases,
    "rotation": rotation.cases,
    "merge": merge.cases,
    "decode": decode.cases,
    "append": append.cases,
    "single token": single_token.cases,
    "fused": prefill.fused,
    "ragged": prefill.ragged,
    "masked": prefill.masked,
    "dense": prefill.dense,
    "grouped": prefill.grouped,
    "compiled": rotation.compiled,
}


def select_cases(section: str, only: str, dry_run: bool) -> list[tuple[str, CaseFactory]]:
    """Return the cases of a section whose name contains `only`. Tensors are not created yet."""
    cases = SECTIONS[section](DRY_RUN if dry_run else FULL)
    return [(name, factory) for name, factory in cases if only in name]

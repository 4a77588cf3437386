"""Diagnose: which mistake explains numbers that differ from those of a rope."""

from rope_core.diagnosis.diagnose import diagnose
from rope_core.diagnosis.mistake import MISTAKES, Mistake
from rope_core.diagnosis.result import (
    Diagnosis,
    Difference,
    Explanation,
    Measured,
    NamedMistake,
    WorstElement,
)

__all__ = [
    "MISTAKES",
    "Diagnosis",
    "Difference",
    "Explanation",
    "Measured",
    "Mistake",
    "NamedMistake",
    "WorstElement",
    "diagnose",
]

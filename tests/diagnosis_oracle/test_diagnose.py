"""A small share of `python -m benchmarks.diagnose`: evidence of the oracle, and what is said."""

import random
from dataclasses import replace

import pytest

from benchmarks.diagnose import diagnosis_of
from tests.diagnosis_oracle import cases
from tests.diagnosis_oracle.judge import judge

DRAW = cases.Draw(tokens=(16, 32), heads=(2,), rows=(1, 2), dtypes=("float32",), extra=0.0)
CODES = (
    *("rotated_twice", "layout_swapped", "wrong_base", "scaling_ignored"),
    *("longrope_other_list", "gain_missing", "partial_ignored", "position_offset"),
    *("layer_type_wrong",),
)


@pytest.mark.parametrize("code", CODES)
def test_one_mistake(code: str) -> None:
    case = cases.single_case(DRAW, code, random.Random(code))
    assert case is not None
    assert judge(case, diagnosis_of(case)) in ("right", "tie"), case.description


@pytest.mark.parametrize("seed", range(8))
def test_right_numbers(seed: int) -> None:
    case = cases.right_case(
        replace(DRAW, dtypes=("float32", "float16", "bfloat16")), random.Random(seed)
    )
    assert judge(case, diagnosis_of(case)) == "right", case.description


@pytest.mark.parametrize("seed", [0, 2])
def test_no_known_mistake(seed: int) -> None:
    case = cases.strange_case(DRAW, random.Random(seed))
    assert diagnosis_of(case).verdict == "unexplained", case.description

"""Tables of cosine and sine and rows of frequencies: what is wrong with them."""

import math

import pytest
import torch

from rope_core import ConfigError, ShapeError, resolve
from rope_core.diagnosis.diagnose import diagnose
from rope_core.diagnosis.result import Diagnosis
from tests.diagnosis_oracle.frequencies import geometric

LLAMA = "llama-3.1-8b"


def told(diagnosis: Diagnosis) -> list[tuple[str, dict[str, object]]]:
    """Return code and parameters of the first explanation."""
    assert diagnosis.verdict == "explained"
    return [(one.code, dict(one.parameters)) for one in diagnosis.explanations[0].mistakes]


def table(inv_freq: torch.Tensor, positions: torch.Tensor) -> dict[str, torch.Tensor]:
    angles = positions[:, None].double() * inv_freq
    return {"cos": angles.cos().float(), "sin": angles.sin().float()}


def row(theta: float, width: int) -> torch.Tensor:
    return torch.from_numpy(geometric(theta, width, width // 2))


def test_right_numbers_agree() -> None:
    inv_freq = resolve(LLAMA).inv_freq
    assert inv_freq is not None
    assert diagnose(LLAMA, inv_freq=inv_freq).verdict == "agrees"
    assert diagnose(LLAMA, **table(inv_freq.double(), torch.arange(32))).verdict == "agrees"


def test_scaling_that_is_ignored_is_told_before_a_factor_of_1() -> None:
    assert told(diagnose(LLAMA, inv_freq=row(5e5, 128))) == [
        ("scaling_ignored", {"rope_type": "llama3"})
    ]


def test_two_mistakes_have_the_right_parameters() -> None:
    found = told(diagnose(LLAMA, inv_freq=row(1e6, 128)))
    assert sorted(found) == [
        ("scaling_ignored", {"rope_type": "llama3"}),
        ("wrong_base", {"theta": 1e6}),
    ]


def test_a_measured_base_is_within_one_percent() -> None:
    [(code, given)] = told(diagnose("llama-2-7b", inv_freq=row(123_456.0, 128)))
    assert code == "wrong_base"
    assert given["theta"] == pytest.approx(123_456.0, rel=1e-4)


def test_a_length_that_acts_in_steps_is_a_power_of_two() -> None:
    given = {"head_dim": 64, "rope_type": "yarn", "factor": 40.0}
    right = {**given, "original_max_position_embeddings": 4096}
    wrong = {**given, "original_max_position_embeddings": 16_384}
    inv_freq = resolve(wrong).inv_freq
    assert inv_freq is not None
    assert told(diagnose(right, inv_freq=inv_freq)) == [
        ("original_length_wrong", {"original_max_position_embeddings": 16_384})
    ]


@pytest.mark.parametrize("layout", ["pairs", "halves", "neighbours"])
def test_repeated_columns_are_no_mistake(layout: str) -> None:
    tensors = table(row(10_000.0, 64), torch.arange(16) + 3)
    repeat = {
        "pairs": lambda x: x,
        "halves": lambda x: torch.cat((x, x), -1),
        "neighbours": lambda x: x.repeat_interleave(2, -1),
    }[layout]
    repeated = {name: repeat(x) for name, x in tensors.items()}
    found = diagnose({"head_dim": 64}, **repeated)
    assert told(found) == [("position_offset", {"offset": 3})]
    assert found.measured is not None
    assert found.measured.position_offset == pytest.approx(3, abs=1e-3)


@pytest.mark.parametrize("shape", [(1, 16, 1, 32), (16, 1, 32)])
@pytest.mark.parametrize("positions", [None, torch.arange(16)])
def test_a_table_may_have_a_dimension_for_heads(
    shape: tuple[int, ...], positions: torch.Tensor | None
) -> None:
    tensors = {n: t.view(shape) for n, t in table(row(1e4, 64), torch.arange(16)).items()}
    diagnosis = diagnose({"head_dim": 64}, **tensors, positions=positions)
    assert diagnosis.verdict == "agrees"
    assert diagnosis.tensors["error_by_position"].shape == shape[:-1]


def test_rows_of_one_token_each_are_at_position_0() -> None:
    found = diagnose({"head_dim": 64}, cos=torch.ones(4, 1, 32), sin=torch.zeros(4, 1, 32))
    assert found.verdict == "agrees"


YARN = {"head_dim": 64, "rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 128}
GAIN = 1 + 0.1 * math.log(8)


@pytest.mark.parametrize(("power", "code"), [(0, "gain_missing"), (2, "gain_twice")])
def test_a_gain_is_told_once(power: int, code: str) -> None:
    inv_freq = resolve(YARN).inv_freq
    assert inv_freq is not None
    right = table(inv_freq.double(), torch.arange(40))
    tensors = {name: t * GAIN**power for name, t in right.items()}
    [explanation] = diagnose(YARN, **tensors).explanations
    assert [one.code for one in explanation.mistakes] == [code]


def test_a_variant_without_effect_is_no_length_of_millions() -> None:
    found = diagnose(LLAMA, **table(row(5e5, 128), torch.arange(64)))
    codes = [one.code for explanation in found.explanations for one in explanation.mistakes]
    assert codes == ["scaling_ignored", "scaling_other_type", "factor_wrong"]
    assert found.next_probe is not None  # dynamic scaling begins there
    assert "longer than 131072 positions" in found.next_probe


def test_sections_are_told_once() -> None:
    rope = {"head_dim": 32, "axes": "mrope", "mrope_section": [4, 6, 6]}
    positions = torch.stack((torch.arange(40), torch.arange(40) // 7 + 2, torch.arange(40) % 7))
    found = diagnose(rope, **table(row(1e4, 32), torch.arange(40)), positions=positions)
    sections = [
        one.parameters["mrope_section"]
        for explanation in found.explanations
        for one in explanation.mistakes
        if one.code == "sections_wrong"
    ]
    assert sections == [[16, 0, 0]]


def test_a_table_of_half_the_width_is_explained() -> None:
    tensors = table(row(10_000.0, 32), torch.arange(40))
    repeated = {name: torch.cat((x, x), -1) for name, x in tensors.items()}  # 32 columns, as right
    assert told(diagnose({"head_dim": 64}, **repeated)) == [
        ("rotary_dim_wrong", {"rotary_dim": 32})
    ]


def test_one_token_and_a_gain() -> None:
    tensors = table(row(10_000.0, 64), torch.tensor([4096]))
    louder = {name: 1.26 * x for name, x in tensors.items()}
    found = diagnose({"head_dim": 64}, **louder, positions=torch.tensor([4096]))
    assert [code for code, _ in told(found)] == ["gain_wrong"]
    assert told(found)[0][1]["gain"] == pytest.approx(1.26, rel=1e-3)


def test_noise_is_not_explained() -> None:
    generator = torch.Generator().manual_seed(1)
    tensors = table(row(10_000.0, 64), torch.arange(32))
    noisy = {
        name: x + 0.01 * torch.randn(x.shape, generator=generator) for name, x in tensors.items()
    }
    found = diagnose({"head_dim": 64}, **noisy)
    assert found.verdict == "unexplained"
    assert found.error.first_position == 0


def test_numbers_that_are_not_finite_are_a_warning() -> None:
    found = diagnose({"head_dim": 64}, inv_freq=torch.full((32,), math.nan))
    assert found.verdict == "unexplained"
    assert found.error.relative is None
    assert found.warnings == ("every number of 'inv_freq' is NaN",)


def test_wrong_shapes_are_refused() -> None:
    cos = torch.ones(4, 32)
    with pytest.raises(ShapeError, match="sin"):
        diagnose({"head_dim": 64}, cos=cos, sin=torch.ones(4, 16))
    with pytest.raises(ShapeError, match="positions"):
        diagnose({"head_dim": 64}, cos=cos, sin=cos, positions=torch.arange(5))
    with pytest.raises(ShapeError, match="inv_freq"):
        diagnose({"head_dim": 64}, inv_freq=torch.ones(2, 16))
    with pytest.raises(ConfigError, match="rope"):
        diagnose({"preset": "smollm3-3b", "layer": 3}, inv_freq=torch.ones(64))

"""The table of families: each row is one, and is read without a word from the file."""

import json
from importlib.resources import files

import pytest

from rope_core.axes import SCHEMES
from rope_core.errors import ConfigError
from rope_core.hf import resolve
from rope_core.hf.families import DIFFUSERS, SAME, families
from rope_core.hf.special import SPECIAL
from rope_core.hf.stacks import STACKS

LINES = (files("rope_core.hf") / "families.json").read_text().splitlines()

ALONE = {
    "glm4_moe": "head_dim",
    "glm4v_moe_text": "head_dim",
    "glm4v_text": "rope_parameters.mrope_section",
    "glm_image_text": "rope_parameters.mrope_section",
    "oned": "dim",
    "qwen3_omni_moe_talker_text": "rope_parameters.mrope_section",
    "qwen3_omni_moe_text": "head_dim",
    "qwen4_exp_text": "rope_parameters.mrope_section",
    "rotary_embedding_torch": "dim",
}
"""Rows whose class is refused where the file is silent, and for which key."""


def test_one_row_a_line_by_name():
    assert (LINES[0], LINES[-1]) == ("{", "}")
    names = [json.loads("{" + line.strip().rstrip(",") + "}") for line in LINES[1:-1]]
    assert [*families()] == sorted(name for row in names for name in row)
    assert len(LINES) == len(families()) + 2


def test_rows_name_what_there_is():
    for family in families().values():
        assert family.special is None or family.special in SPECIAL
        assert family.axes is None or family.axes in SCHEMES
        assert family.stack is None or family.stack in STACKS
        assert family.as_of("4.57").name == family.name
    assert {*DIFFUSERS.values(), *SAME.values()} <= {*families()}
    assert not {*SAME} & {*families()}


@pytest.mark.parametrize("compat", ["5.23", "4.57"])
@pytest.mark.parametrize("name", list(families()))
def test_a_file_that_says_nothing(name, compat):
    family = families()[name]
    layer_type = next(iter(family.types), None)
    config = {"model_type": name, "position_embedding_type": "rope", "use_mem_rope": True}
    if name in ALONE:
        with pytest.raises(ConfigError) as caught:
            resolve(config, compat=compat)
        assert caught.value.parameter == ALONE[name]
        return
    found = resolve(config, layer_type=layer_type, compat=compat)
    assert found.model_type == name
    assert found.rope is not None
    assert found.rope.rounding == family.as_of(compat).rounding
    assert found.attention.causal == family.causal

"""What transformers' own classes make of a released config.json: layers, rotation, attention."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from tests.transformers_live import Pair, rotated
from tools.parity.rotary_modules import RotaryModule, modeling, part_of

FOLDER = Path(__file__).parent / "configs"

READ_AS = {
    "deepseek_ref": "deepseek_v4",  # `architectures` has DeepSeek-V4's class
    "kimi_k2": "deepseek_v3",  # the repository's own code is that of DeepSeek-V3
    "mimo": "qwen2",  # MiMoConfig is derived from Qwen2Config
    "minimax_m3": "minimax_m3_vl_text",  # the text model of MiniMax-M3, under its first name
    "nemotron-nas": "llama",  # DeciLMConfig is derived from LlamaConfig, its rotation is Llama's
    "step3p7": "step3p5",  # these two files are flat: they have the keys of the text model
}
"""Model types without a class in transformers, or a flat one, and the class that reads them."""

APPLY = {"deepseek_v4": "x", "gemma4": "x", "llama4": "complex_bshd"}
"""The functions of `transformers_live.rotated` that are not of the usual form, by module."""

INTERLEAVED = ("deepseek_v3", "deepseek_v32", "glm_moe_dsa")
"""MLA models whose channels are read interleaved and written half."""

WITHOUT_ATTENTION = ("linear_attention",)


@cache
def contents(name: str) -> dict[str, Any]:
    """Return a file."""
    found: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return found


@dataclass(frozen=True, eq=False)
class OwnModel:
    """A part of a model as transformers has it."""

    rotary: RotaryModule
    code: ModuleType

    @classmethod
    @cache
    def of(cls, name: str, part: str) -> "OwnModel":
        """Read a file with the class of its model_type."""
        file = {key: value for key, value in contents(name).items() if value is not None}
        model_type = file["model_type"]
        flat = READ_AS.get(model_type, model_type)
        whole = CONFIG_MAPPING[flat if part == "text" else model_type].from_dict(file)
        config = part_of(whole, part)
        rotary = RotaryModule.of(config)
        code = modeling(type(config))
        assert rotary is not None
        assert code is not None
        return cls(rotary, code)

    @property
    def config(self) -> Any:
        return self.rotary.config

    @property
    def family(self) -> str:
        return self.code.__name__.split(".")[2]

    def layers(self) -> list[tuple[str | None, bool]]:
        """Return the type of each layer, and whether it rotates."""
        total = self.config.num_hidden_layers
        types: list[str | None] = [*(self.rotary.layer_types or [None] * total)]
        flags = getattr(self.config, "no_rope_layers", None) or [True] * total
        rotates = [
            bool(flag) and layer_type not in WITHOUT_ATTENTION
            for layer_type, flag in zip(types, flags, strict=True)
        ]
        return list(zip(types, rotates, strict=True))

    def rotated(self, q: Tensor, k: Tensor, positions: Tensor, layer_type: str | None) -> Pair:
        """Return q and k `[B, S, H, D]` as the model rotates them."""
        q, k = q.transpose(1, 2), k.transpose(1, 2)
        table = self.rotary.tables(q, positions, layer_type)
        apply = "interleave" if self.family in INTERLEAVED else APPLY.get(self.family, "qk")
        q, k = rotated(self.code, apply, q, k, table)
        return q.transpose(1, 2), k.transpose(1, 2)

"""What transformers itself computes of a golden file's inputs, on this processor, now.

The last bit of a power, a cosine or a sum depends on the instructions that the processor has. So
"bit-equal to transformers" is compared with the model's own classes in the same process.
"""

import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from inspect import signature
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

os.environ.setdefault("HF_HUB_OFFLINE", "1")
logging.getLogger("transformers").setLevel(logging.ERROR)  # it comments on the files' configs

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Model:
    """The classes of one family, and its config."""

    module: ModuleType
    config: Any
    rotary: torch.nn.Module

    @classmethod
    def of(cls, source: dict[str, Any], config: dict[str, Any]) -> "Model":
        """Read what a golden file says of its source."""
        family = f"transformers.models.{source['module']}"
        configs = import_module(f"{family}.configuration_{source['module']}")
        module = import_module(f"{family}.modeling_{source['module']}")
        made = getattr(configs, source["config_class"])(**config)
        name = source.get("rotary_class")
        if name is None:  # in files of attention; the class of a text config may leave out "Text"
            stem = source["config_class"].removesuffix("Config")
            names = f"{stem}RotaryEmbedding", f"{stem.removesuffix('Text')}RotaryEmbedding"
            name = next(name for name in names if hasattr(module, name))
        return cls(module, made, getattr(module, name)(made))

    def table(
        self, x: Tensor, positions: Iterable[Tensor], layer_type: str | None
    ) -> Pair | Tensor:
        """Return cosine and sine, or complex numbers, of the last of several calls."""
        by_layer = "layer_type" in signature(self.rotary.forward).parameters
        of_layer = {"layer_type": layer_type} if by_layer else {}
        for ids in positions:
            found = self.rotary(x, ids, **of_layer)
        return found


def rotated(module: ModuleType, apply: str, q: Tensor, k: Tensor, table: Any) -> Pair:
    """Return q and k `[B, H, S, D]`, rotated the way that a golden file names."""
    match apply:
        case "qk":
            return module.apply_rotary_pos_emb(q, k, *table)
        case "qk_unsqueeze0":
            return module.apply_rotary_pos_emb(q, k, *table, unsqueeze_dim=0)
        case "x":
            return tuple(module.apply_rotary_pos_emb(x, *table) for x in (q, k))
        case "split_qk":
            parts = [x.split([table[0].shape[-1], x.shape[-1] - table[0].shape[-1]], -1)
                     for x in (q, k)]  # fmt: skip
            turned = module.apply_rotary_pos_emb(parts[0][0], parts[1][0], *table)
            return tuple(
                torch.cat((x, rest), -1) for x, (_, rest) in zip(turned, parts, strict=True)
            )
        case "interleave":
            return module.apply_rotary_pos_emb_interleave(q, k, *table)
        case "pair2d":
            return module.apply_rotary_pos_emb_2d(q, k, *table)
        case "complex_bhsd":
            return module.apply_rotary_emb(q, k, table)
        case "complex_bshd":
            swapped = module.apply_rotary_emb(q.transpose(1, 2), k.transpose(1, 2), table)
            return tuple(x.transpose(1, 2) for x in swapped)
        case "vision":
            tokens = (x[0].transpose(0, 1) for x in (q, k))
            swapped = module.apply_rotary_pos_emb_vision(*tokens, *table)
            return tuple(x.transpose(0, 1)[None] for x in swapped)
        case "multidim":
            two_axes = torch.zeros(1, q.shape[2], 2)  # only its shape is looked at
            return tuple(
                module.apply_multidimensional_rope(x.transpose(1, 2), *table, two_axes)
                .transpose(1, 2)
                for x in (q, k)
            )  # fmt: skip
    raise NotImplementedError(apply)

"""Golden vectors made by transformers, diffusers and others: what each one asks, and its answer.

Positions come from the file, or from the builder that its family uses, fed with the file's inputs.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from rope_core import positions as build

ROOT = Path(__file__).parent / "golden"
PACKAGES = {"seq": "rotary_embedding_torch", "axial": "rotary_embedding_torch"}
PACKAGES |= {"xpos": "rotary_embedding_torch"}
COMPLEX_PRODUCTS = ("llama4_vision", "lumina_next_2d", "mochi_1", "qwen_image")


@dataclass(frozen=True)
class Case:
    """One file."""

    name: str
    described: dict[str, Any]
    tensors: dict[str, Tensor]

    @property
    def model(self) -> dict[str, Any]:
        """The config, and what names the family and the version: keywords of `resolve`."""
        source = self.described["source"]
        module, which = source["module"], source.get("which")
        version = source["packages"].get("transformers", "5.23")
        return {
            "config": self.described["config"],
            "model_type": module or PACKAGES.get(which, which),
            "layer_type": self.described["result"].get("layer_type"),
            "compat": "4.57" if version.startswith("4") else "5.23",
        }

    @property
    def is_complex(self) -> bool:
        """Whether the source multiplies complex numbers."""
        by_name = self.name in COMPLEX_PRODUCTS
        return by_name or self.described["source"].get("apply") in ("complex_bhsd", "complex_bshd")

    def heads(self, name: str) -> Tensor | None:
        """Return a tensor as `[B, S, H, D]`, from `[B, H, S, D]` or from hidden states."""
        if name in self.tensors:
            return self.tensors[name].transpose(1, 2).contiguous()
        hidden = {"q": "hidden", "q_rot": "hidden_rot"}.get(name)
        if hidden not in self.tensors:
            return None
        states = self.tensors[hidden]
        num_heads = self.described["config"].get("num_attention_heads", 1)
        return states.unflatten(-1, (num_heads, -1))

    @property
    def positions(self) -> Tensor:
        """Positions, axes first where there are several."""
        ids = self.tensors.get("position_ids")
        q = self.heads("q")
        assert q is not None
        if ids is None:
            built = _built(self)
            return built[:, None].expand(-1, len(q), -1) if built.ndim == 2 else built
        if ids.ndim == 2 and len(ids) == q.shape[1] - _prefix(self) and len(ids) != len(q):
            prefix = ids.new_zeros(_prefix(self), ids.shape[1])  # a position of 0 turns nothing
            return torch.cat((prefix, ids)).T[:, None].expand(-1, len(q), -1).contiguous()
        return ids if ids.ndim == 3 or len(ids) == len(q) else ids.reshape(-1)


def _prefix(case: Case) -> int:
    return case.described["result"].get("prefix_tokens", 0)


def _built(case: Case) -> Tensor:
    """Return what the family's builder makes of the file's inputs."""
    config, given, tensors = case.described["config"], case.described["inputs"] or {}, case.tensors
    thw = given.get("latent_thw")
    match case.model["model_type"]:
        case "cogvideox":
            sizes = [config["temporal_size"], *config["grid_size"]]
            if config.get("grid_type") == "slice":
                return build.grid_positions(sizes=sizes)
            start, stop = config["crops_coords"]
            return build.crop_positions(sizes=sizes, crop_start=start, crop_stop=stop)
        case "cogview4":
            sizes = [side // config["patch_size"] for side in given["latent_hw"]]
            return build.resampled_positions(sizes=sizes, axes_dim=config["rope_axes_dim"])
        case "cosmos":
            sizes = [a // b for a, b in zip(thw, config["patch_size"], strict=True)]
            return build.frame_rate_positions(
                sizes=sizes, fps=given["fps"], base_fps=config["base_fps"]
            )
        case "efficientloftr":
            sizes = [side // 4 for side in given["feature_hw"]]
            return build.grid_positions(sizes=sizes, start=1)
        case "esmfold2":
            return build.atom_positions(xyz=tensors["xyz"], uid=tensors["uid"])
        case "hunyuan_video":
            patch = [config["patch_size_t"], config["patch_size"], config["patch_size"]]
            return build.grid_positions(sizes=[a // b for a, b in zip(thw, patch, strict=True)])
        case "wan":
            sizes = [a // b for a, b in zip(thw, config["patch_size"], strict=True)]
            return build.grid_positions(sizes=sizes)
        case "llama4":
            side = config["image_size"] // config["patch_size"]
            return build.grid_positions(
                sizes=[side, side], start=1, column_first=True, last_tokens=1
            )
        case "ltx":
            keys = ("base_num_frames", "base_height", "base_width", "patch_size", "patch_size_t")
            return build.normalised_video_positions(
                sizes=thw,
                rope_interpolation_scale=given["rope_interpolation_scale"],
                **{key: config[key] for key in keys},
            )
        case "rotary_embedding_torch":
            return build.pixel_positions(sizes=given["dims"])
        case "lumina2d":
            return build.grid_positions(sizes=given["hw"])
        case "qwenimage":
            return build.centred_positions(
                sizes=[given["fhw"]],
                text_tokens=given["text_len"],
                scale_rope=config["scale_rope"],
            )
        case "musicflamingo":
            return build.audio_time_positions(timestamps=tensors["timestamps"])
        case unknown:
            raise NotImplementedError(unknown)


@cache
def load(kind: str, name: str) -> Case:
    """Read a file of `kind`, "rope" or "attention"."""
    described = json.loads((ROOT / kind / f"{name}.json").read_text())
    return Case(name, described, load_file(ROOT / kind / f"{name}.safetensors"))


def names(kind: str) -> list[str]:
    """Return the names of all files of a kind."""
    return sorted(file.stem for file in (ROOT / kind).glob("*.json"))


def rotations() -> list[str]:
    """Return the names of all files that hold rotated tensors."""
    found = []
    for name in names("rope"):
        shapes = json.loads((ROOT / "rope" / f"{name}.json").read_text())["tensors"]
        if "q_rot" in shapes or "hidden_rot" in shapes:
            found.append(name)
    return found

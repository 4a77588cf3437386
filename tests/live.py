"""Golden files as their models answer them on this processor, now."""

from dataclasses import replace

import torch
from torch import Tensor

from tests import formulas_live, transformers_live
from tests.golden_cases import Case


def live(case: Case) -> Case:
    """Return a case of "rope" whose tables and rotated tensors are computed now."""
    made = _by_transformers(case) if case.described["source"].get("apply") else _by_formula(case)
    return replace(case, tensors=case.tensors | made)


def _by_transformers(case: Case) -> dict[str, Tensor]:
    source, tensors = case.described["source"], case.tensors
    model = transformers_live.Model.of(source, case.described["config"])
    warm_up = (case.described["inputs"] or {}).get("warmup_positions", [])
    positions = [torch.tensor(ids).reshape(1, -1) for ids in warm_up]
    positions.append(tensors["position_ids"])
    if source["apply"] == "multidim":
        positions = [ids[None] for ids in positions]
    layer_type = case.described["result"].get("layer_type")
    table = model.table(tensors["q"], positions, layer_type)
    q, k = transformers_live.rotated(
        model.module, source["apply"], tensors["q"], tensors["k"], table
    )
    cos, sin = (table.real, table.imag) if isinstance(table, Tensor) else table
    return {"cos": cos, "sin": sin, "q_rot": q, "k_rot": k}


def _by_formula(case: Case) -> dict[str, Tensor]:
    tables = formulas_live.table(case)
    made = dict(zip(("cos", "sin"), tables, strict=True)) if "cos" in case.tensors else {}
    if case.name == "musicflamingo_time":
        tables = tuple(each.double() for each in tables)
    if case.name == "wav2vec2_conformer":
        heads = case.tensors["hidden"].unflatten(-1, (2, -1)).transpose(1, 2)
        rotated = formulas_live.rotated(case, heads, tables, is_key=False)
        return made | {"hidden_rot": rotated.transpose(1, 2).flatten(-2)}
    for name in ("q", "k", "hidden"):
        if name in case.tensors:
            rotated = formulas_live.rotated(case, case.tensors[name], tables, is_key=name == "k")
            made[f"{name}_rot"] = rotated.to(case.tensors[name].dtype)
    return made

"""Forms of a config that are not config.json of transformers, recognised by their keys.

A form has a row of its own in `remote_families.json`: Mistral's params.json, Meta's params.json of
Llama, and the config.json of nomic's own code, whose keys are those of flash-attn.
"""

from collections.abc import Mapping
from typing import Any

PARAMS_JSON = frozenset(("dim", "n_heads"))
"""Keys that every params.json has."""

NOMIC_KEYS = frozenset(
    (
        *("rotary_emb_fraction", "rotary_emb_base", "rotary_emb_interleaved"),
        *("rotary_emb_scale_base", "rotary_scaling_factor"),
    )
)


def find_form(config: Mapping[str, Any], model_type: str | None) -> str | None:
    """Return the name of the row for the config's form, None for a config.json of transformers."""
    if model_type in (None, "transformer") and config.keys() >= PARAMS_JSON:
        if "multiple_of" in config:
            return "meta_params"
        return "mistral_mla_params" if config.get("qk_rope_head_dim") else "mistral_params"
    if model_type == "nomic_bert" and config.keys() & NOMIC_KEYS:
        return "nomic_bert_remote"
    return None

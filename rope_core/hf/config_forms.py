"""Forms of a config that are not config.json of transformers, recognised by their keys.

A form has a row of its own in `remote_families.json`: Mistral's params.json, Meta's params.json of
Llama, the config.json of nomic's own code, whose keys are those of flash-attn, and those of other
own code under a model_type of transformers: Jina's XLM-RoBERTa that rotates, Jina's and Mosaic's
BERT with ALiBi, and DeepSeek's models without MLA.
"""

from collections.abc import Mapping
from typing import Any

PARAMS_JSON = frozenset(("dim", "n_heads"))
"""Keys that every params.json has."""

PARAMS_FORMS = ("meta_params", "mistral_mla_params", "mistral_params")
"""Names of the rows of forms of params.json, whose parts have no class with defaults."""

MLA_WIDTHS = ("qk_nope_head_dim", "qk_rope_head_dim")
"""Widths of an MLA head, which are 0 in configs of DeepSeek-V2 that have plain attention."""

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
    position_type = config.get("position_embedding_type")
    if model_type == "xlm-roberta" and position_type == "rotary":
        return "xlm_roberta_flash"
    if model_type == "bert" and (position_type == "alibi" or "alibi_starting_size" in config):
        return "bert_alibi"
    if model_type == "deepseek_v2" and all(config.get(key) == 0 for key in MLA_WIDTHS):
        return "deepseek"
    return None

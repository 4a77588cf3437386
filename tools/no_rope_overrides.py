"""What `no_rope.py` cannot find in the code of models, each with the reason."""

from typing import Any

CAUSAL = {"causal": True}

PART_OF_KEYS = {"oddities": {"attention": "part_of_keys"}}

DISENTANGLED = {
    "no_rope": "relative",
    "nope": "relative_attention",
    "softmax_scale": "disentangled",
}
"""DeBERTa's attention: biases of relative positions are behind a switch."""

RECURRENT = {"layer_cycle": ["linear_attention"]}
"""A property of the class names all layers so."""
DETR = ("detr", "conditional_detr", "deformable_detr", "table-transformer")

OVERRIDES: dict[str, dict[str, Any]] = {
    # the decoder adds learned embeddings; it never gives its shared attention a rotary_pos_emb
    "clvp_decoder": {"no_rope": "learned absolute"},
    "deberta": DISENTANGLED,
    "deberta-v2": DISENTANGLED,
    "sew-d": {
        **DISENTANGLED,
        "defaults": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
    },
    # scores are products of queries and keys without a factor; the mask is a buffer of the class
    "gpt_neo": {
        "softmax_scale": "unscaled",
        "causal": True,
        "layer_types": "attention_types",
        "oddities": {"attention": "local_layers"},
    },
    # masks are made inside of the attention
    "longformer": PART_OF_KEYS,
    "big_bird": PART_OF_KEYS,
    "canine": PART_OF_KEYS,
    # masks are made without the functions for masks
    "openai-gpt": CAUSAL,
    "imagegpt": CAUSAL,
    "cpmant": CAUSAL,
    "fsmt": CAUSAL,
    "prophetnet": CAUSAL,
    "kosmos_2_text_model": CAUSAL,
    "semantic": CAUSAL,
    "coarse_acoustics": CAUSAL,
    "phi4_multimodal_audio": {"causal": False},
    "reformer": {"causal_key": "is_decoder", **PART_OF_KEYS},
    "xlm": {"causal_key": "causal"},
    "flaubert": {"causal_key": "causal"},
    # num_hidden_layers is a dictionary; these are the layers of the text part
    "lxmert": {"key_names": {"num_hidden_layers": "l_layers"}},
    # a linear recurrence that the code calls attention
    "rwkv": {"no_rope": "state space"},
    # learned embeddings in a class that names the configuration in another way
    "gemma4_unified_vision": {"no_rope": "learned absolute"},
    "unlimited_ocr_vision_encoder": {"no_rope": "learned absolute"},
    # a key that engines read, and that the classes do not
    "kimi_linear": {"nope": "mla_use_nope", "layer_types": "kda_layers"},
    "glm5_next_text": {
        "nope": "mla_use_nope",
        "layer_cycle": [*["linear_attention"] * 3, "indexed_attention"],
        "oddities": {"layer_types": "indexed_attention"},
    },
    # heads of two concatenated inputs
    "zamba": {
        "head_dim": "twice_derived",
        "layer_types": "attn_layer_period_after_3",
        "defaults": {"attn_layer_period": 6, "attn_layer_offset": 4},
    },
    # types of layers that the class computes
    "jamba": {
        "layer_types": "attn_layer_period",
        "defaults": {"attn_layer_period": 8, "attn_layer_offset": 4},
    },
    "nemotron_h": {
        "layer_types": "hybrid_override_pattern",
        "defaults": {"num_hidden_layers": 4},  # a property of the class
    },
    "inkling_text": {"layer_types": "local_layer_ids"},
    "inkling2_text": {"layer_cycle": [*["hybrid_sliding"] * 5, "hybrid"]},
    "mamba": RECURRENT,
    "mamba2": RECURRENT,
    "falcon_mamba": RECURRENT,
    # a switch between two classes
    **{name: {"no_rope": "sinusoidal", "nope": "sine_or_learned"} for name in DETR},
    # learned embeddings of rows and columns
    "pix2struct_vision_model": {"no_rope": "learned absolute"},
    # the code is that of BERT, LayoutLMv2 and GOT-OCR2, whose classes have other configurations
    "dpr": {"no_rope": "learned absolute"},
    "layoutxlm": {"no_rope": "relative", "relative_bias": True},
    "pp_chart2table_vision": {"no_rope": "relative"},
}
"""What the code does and no rule of this script finds."""

LEFT_OUT = ("timm_backbone", "timm_wrapper", "gemma3n_vision")
"""Model types whose code is that of any model of timm."""

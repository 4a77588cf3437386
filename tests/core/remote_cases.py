"""Configs of families of remote code, and the rotation that their published code computes."""

import math

import torch

from tests.core.remote_oracle import grown, inv_freq, llama_31, of_gte, yarn

GLM4 = {
    "model_type": "chatglm",
    "hidden_size": 4096,
    "kv_channels": 128,
    "num_attention_heads": 32,
    "num_layers": 40,
    "original_rope": True,
    "rope_ratio": 500,
    "seq_length": 131072,
}
QWEN = {
    "model_type": "qwen",
    "hidden_size": 4096,
    "kv_channels": 128,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "rotary_emb_base": 10000,
    "rotary_pct": 1.0,
    "seq_length": 8192,
    "use_dynamic_ntk": True,
    "use_logn_attn": True,
}
NOMIC = {
    "model_type": "nomic_bert",
    "n_embd": 768,
    "n_head": 12,
    "n_layer": 12,
    "n_positions": 8192,
    "max_trained_positions": 2048,
    "rotary_emb_base": 1000,
    "rotary_emb_fraction": 1.0,
    "rotary_emb_interleaved": False,
    "rotary_emb_scale_base": None,
    "rotary_scaling_factor": None,
}
MISTRAL = {
    "dim": 5120,
    "n_layers": 40,
    "head_dim": 128,
    "hidden_dim": 32768,
    "n_heads": 32,
    "n_kv_heads": 8,
    "rope_theta": 1e6,
    "norm_eps": 1e-5,
    "vocab_size": 131072,
}
LARGE_3 = MISTRAL | {
    "dim": 7168,
    "head_dim": 192,
    "n_heads": 128,
    "n_kv_heads": 128,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "rope_theta": 10000.0,
    "yarn": {
        "factor": 36,
        "beta": 32,
        "alpha": 1,
        "original_max_position_embeddings": 8192,
        "apply_scale": False,
    },
}
LLAMA = {
    "dim": 4096,
    "n_layers": 32,
    "n_heads": 32,
    "n_kv_heads": 8,
    "vocab_size": 128256,
    "ffn_dim_multiplier": 1.3,
    "multiple_of": 1024,
    "norm_eps": 1e-05,
    "rope_theta": 500000.0,
    "use_scaled_rope": True,
}
PHI_SMALL = {
    "model_type": "phi3small",
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "rope_embedding_base": 1000000,
    "rope_position_scale": 1.0,
    "mup_use_scaling": True,
    "mup_attn_multiplier": 1.0,
    "dense_attention_every_n_layers": 2,
    "num_hidden_layers": 32,
}
MPT = {"model_type": "mpt", "d_model": 512, "n_heads": 8, "n_layers": 4, "max_seq_len": 2048}
SIZES = {"hidden_size": 512, "num_attention_heads": 8}
GTE = {"model_type": "new", "hidden_size": 768, "num_attention_heads": 12, "rope_theta": 20000}
LING = {
    "model_type": "bailing_moe",
    "hidden_size": 2048,
    "num_attention_heads": 16,
    "rope_theta": 600000,
}
JINA = {"position_embedding_type": "rotary", "rotary_emb_base": 2e4}
ATTN = {"rope": True, "rope_theta": 5e5}
HF_LINEAR = {"rope_impl": "hf", "rope_hf_config": {"type": "linear", "factor": 4.0}}
LISTS = {
    "short_factor": [1.0 + i / 100 for i in range(64)],
    "long_factor": [2.0 + i for i in range(64)],
}
SU = {"type": "su", "original_max_position_embeddings": 8192, **LISTS}
MSCALES = {"short_mscale": 1.1, "long_mscale": 1.25}

CASES = {  # config, frequencies, width of a head, order of channels, gain
    "chatglm": (GLM4, inv_freq(64, 5e6), 128, "interleaved", 1),
    "chatglm2": (GLM4 | {"rope_ratio": None}, inv_freq(64), 128, "interleaved", 1),
    "chatglm, kv_channels": (GLM4 | {"kv_channels": 96}, inv_freq(48, 5e6), 96, "interleaved", 1),
    "qwen, off": (QWEN | {"use_dynamic_ntk": False}, inv_freq(128), 128, "half", 1),
    "qwen, x16": (QWEN, inv_freq(128, grown(1e4, 31, 128)), 128, "half", 1),
    "qwen, pct": (
        *(QWEN | {"rotary_pct": 0.25, "use_dynamic_ntk": False, "rotary_emb_base": 5e5},),
        *(inv_freq(32, 5e5), 128, "half", 1),
    ),
    "baichuan": ({"model_type": "baichuan"}, inv_freq(128), 128, "half", 1),
    "baichuan, other size": (
        *({"model_type": "baichuan", "max_position_embeddings": 2048, **SIZES},),
        *(inv_freq(64), 64, "half", 1),
    ),
    "phi3small": (PHI_SMALL, inv_freq(128, 1e6), 128, "half", 1),
    "phi3small, scale": (
        *(PHI_SMALL | {"rope_position_scale": 4.0}, inv_freq(128, 1e6) / 4, 128, "half", 1),
    ),
    "phi3small, su": (
        *(PHI_SMALL | {"rope_scaling": SU | MSCALES},),
        *(inv_freq(128, 1e6) / torch.tensor(LISTS["long_factor"]).double(), 128, "half", 1.25),
    ),
    "internlm": (
        *({"model_type": "internlm", "rotary": {"base": 5e5, "type": "origin"}, **SIZES},),
        *(inv_freq(64, 5e5), 64, "half", 1),
    ),
    "internlm, dynamic": (
        {
            "model_type": "internlm",
            "rotary": {"base": 10000, "type": "dynamic"},
            "max_position_embeddings": 2048,
            **SIZES,
        },
        *(inv_freq(64, grown(1e4, 70001 / 2048, 64)), 64, "half", 1),
    ),
    "internlm2": (
        {
            "model_type": "internlm2",
            "rope_theta": 1e6,
            "rope_scaling": {"type": "dynamic", "factor": 2.0},
            "max_position_embeddings": 32768,
            **SIZES,
        },
        *(inv_freq(64, grown(1e6, 2 * 70001 / 32768 - 1, 64)), 64, "half", 1),
    ),
    "hunyuan": (
        {
            "model_type": "hunyuan",
            "rope_scaling": {"type": "dynamic", "alpha": 1000.0, "factor": 1.0},
            **SIZES,
        },
        *(inv_freq(64, grown(1e4, 1000, 64)), 64, "half", 1),
    ),
    "hunyuan, width": (
        *({"model_type": "hunyuan", "attention_head_dim": 128, **SIZES}, inv_freq(128)),
        *(128, "half", 1),
    ),
    "bailing_moe_linear": (
        *(LING | {"model_type": "bailing_moe_linear", "partial_rotary_factor": 0.5},),
        *(inv_freq(64, 6e5), 128, "half", 1),
    ),
    "bailing_moe": (LING, inv_freq(128, 6e5), 128, "half", 1),
    "bailing_moe_v2": (
        *(
            LING | {"head_dim": 128, "partial_rotary_factor": 0.5},
            inv_freq(64, 6e5),
            128,
            "half",
            1,
        ),
    ),
    "kimi_k2": ({"model_type": "kimi_k2", "rope_theta": 5e4}, inv_freq(64, 5e4), 64, "permuted", 1),
    "mimo": (
        {"model_type": "mimo", "rope_theta": 640000, **SIZES},
        inv_freq(64, 64e4),
        64,
        "half",
        1,
    ),
    "step3": (
        *({"model_type": "step3_vl", "text_config": {"model_type": "step3_text"}},),
        *(inv_freq(256, 5e5), 256, "half", 1),
    ),
    "orion": ({"model_type": "orion", **SIZES}, inv_freq(64), 64, "half", 1),
    "xverse": (
        {"model_type": "xverse", "rope_theta": 5e5, **SIZES},
        inv_freq(64, 5e5),
        64,
        "half",
        1,
    ),
    "deepseek": ({"model_type": "deepseek", **SIZES}, inv_freq(64), 64, "half", 1),
    "deepseek_v2 without MLA": (
        {
            "model_type": "deepseek_vl_v2",
            "language_config": {
                "model_type": "deepseek_v2",
                "use_mla": False,
                "qk_nope_head_dim": 0,
                "qk_rope_head_dim": 0,
                **SIZES,
            },
        },
        *(inv_freq(64), 64, "half", 1),
    ),
    "RefinedWeb": (
        {"model_type": "RefinedWebModel", "hidden_size": 4544, "n_head": 71, "alibi": False},
        *(inv_freq(64), 64, "half", 1),
    ),
    "stablelm_epoch": (
        {"model_type": "stablelm_epoch", "rope_pct": 0.5, "rope_theta": 5e5, **SIZES},
        *(inv_freq(32, 5e5), 64, "half", 1),
    ),
    "Jina's XLM-RoBERTa": (
        {"model_type": "xlm-roberta", **JINA, **SIZES},
        *(inv_freq(64, 2e4), 64, "half", 1),
    ),
    "Jina's XLM-RoBERTa, interleaved": (
        {"model_type": "xlm-roberta", **JINA, "rotary_emb_interleaved": True, **SIZES},
        *(inv_freq(64, 2e4), 64, "interleaved", 1),
    ),
    "aquila": ({"model_type": "aquila", **SIZES}, inv_freq(64), 64, "half", 1),
    "nemotron_nas": (
        *(
            {"model_type": "nemotron-nas", "rope_theta": 5e5, **SIZES},
            inv_freq(64, 5e5),
            64,
            "half",
            1,
        ),
    ),
    "openelm": (
        {
            "model_type": "openelm",
            "head_dim": 64,
            "model_dim": 2048,
            "num_query_heads": [16, 32],
            "num_transformer_layers": 2,
            "rope_freq_constant": 20000,
        },
        *(inv_freq(64, 2e4), 64, "half", 1),
    ),
    "mpt": (MPT | {"attn_config": ATTN}, inv_freq(64, 5e5), 64, "half", 1),
    "mpt, linear": (MPT | {"attn_config": ATTN | HF_LINEAR}, inv_freq(64, 5e5) / 4, 64, "half", 1),
    "mpt, dynamic": (
        MPT
        | {
            "attn_config": ATTN
            | {"rope_impl": "hf", "rope_hf_config": {"type": "dynamic", "factor": 2.0}}
        },
        *(inv_freq(64, grown(5e5, 2 * 70001 / 2048 - 1, 64)), 64, "half", 1),
    ),
    "nomic": (NOMIC, inv_freq(64, 1000), 64, "half", 1),
    "nomic, interleaved half": (
        *(NOMIC | {"rotary_emb_interleaved": True, "rotary_emb_fraction": 0.5},),
        *(inv_freq(32, 1000), 64, "interleaved", 1),
    ),
    "nomic, dynamic": (
        *(NOMIC | {"rotary_scaling_factor": 2},),
        *(inv_freq(64, grown(1000, 2 * 70001 / 2048 - 1, 64)), 64, "half", 1),
    ),
    "gte": (GTE, inv_freq(64, 2e4), 64, "half", 1),
    "gte, ntk": (
        *(
            GTE | {"rope_scaling": {"factor": 8.0, "type": "ntk"}},
            of_gte(64, 2e4, 8),
            64,
            "half",
            1,
        ),
    ),
    "gte, mixed": (
        *(GTE | {"rope_scaling": {"factor": 2.0, "type": "ntk", "mixed_b": 0.625}},),
        *(of_gte(64, 2e4, 2, 0.625), 64, "half", 1),
    ),
    "Mistral": (MISTRAL, inv_freq(128, 1e6), 128, "interleaved", 1),
    "Mistral, no base": (MISTRAL | {"rope_theta": None}, inv_freq(128, 1e6), 128, "interleaved", 1),
    "Mistral, no base and a window": (
        MISTRAL | {"rope_theta": None, "sliding_window": 4096},
        *(inv_freq(128), 128, "interleaved", 1),
    ),
    "Mistral, yarn": (
        *(MISTRAL | {"yarn": {k: v for k, v in LARGE_3["yarn"].items() if k != "apply_scale"}},),
        *(yarn(128, 1e6, 36, 8192), 128, "interleaved", 0.1 * math.log(36) + 1),
    ),
    "Mistral, yarn without scale": (
        *(MISTRAL | {"yarn": LARGE_3["yarn"]}, yarn(128, 1e6, 36, 8192), 128, "interleaved", 1),
    ),
    "Mistral Large 3": (LARGE_3, yarn(64, 1e4, 36, 8192), 64, "interleaved", 1),
    "Llama 3": (LLAMA | {"use_scaled_rope": None}, inv_freq(128, 5e5), 128, "interleaved", 1),
    "Llama 3.1": (LLAMA, llama_31(128, 5e5), 128, "interleaved", 1),
    "Llama 2": (
        LLAMA | {"rope_theta": None, "use_scaled_rope": None},
        inv_freq(128),
        128,
        "interleaved",
        1,
    ),
}

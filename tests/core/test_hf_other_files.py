"""Files that are no config.json are named, with what to send in place of them."""

import json

import pytest

from rope_core import ConfigError, hf, resolve
from rope_core.hf.other_files import describe, describe_names
from rope_core.presets import built_in

SAME_FOLDER = "send the config.json of the same folder"
OTHERS = {  # the file, and words of the error
    "generation_config.json": (
        {"bos_token_id": 1, "eos_token_id": 2, "do_sample": True, "transformers_version": "4.45"},
        ["generation_config.json (it has do_sample)", SAME_FOLDER],
    ),
    "generation_config.json of a base model": (
        {"_from_model_config": True, "eos_token_id": 2},
        ["generation_config.json", SAME_FOLDER],
    ),
    "tokenizer_config.json": (
        {"added_tokens_decoder": {}, "model_max_length": 8192, "eos_token": "</s>"},
        ["tokenizer_config.json", SAME_FOLDER],
    ),
    "tokenizer.json": (
        {"version": "1.0", "added_tokens": [], "model": {"type": "BPE"}},
        ["tokenizer.json (it has added_tokens, model)", SAME_FOLDER],
    ),
    "special_tokens_map.json": ({"eos_token": "</s>"}, ["special_tokens_map.json", SAME_FOLDER]),
    "preprocessor_config.json": (
        {"image_processor_type": "Qwen2VLImageProcessor", "patch_size": 14},
        ["preprocessor_config.json", SAME_FOLDER],
    ),
    "processor_config.json": ({"processor_class": "X"}, ["processor_config.json", SAME_FOLDER]),
    "adapter_config.json": (
        {"peft_type": "LORA", "base_model_name_or_path": "a/b", "r": 16, "lora_alpha": 32},
        ["adapter_config.json", "send the config.json of the base model, 'a/b'"],
    ),
    "model.safetensors.index.json": (
        {"metadata": {"total_size": 1}, "weight_map": {"a": "b"}},
        ["the index of a model's weights", SAME_FOLDER],
    ),
    "GPTQ": ({"bits": 4, "group_size": 128}, ["a config of quantization", SAME_FOLDER]),
    "AWQ": ({"zero_point": True, "w_bit": 4}, ["a config of quantization", SAME_FOLDER]),
    "quantization_config": ({"quant_method": "fp8"}, ["a config of quantization", SAME_FOLDER]),
    "GGUF": (
        {"general.architecture": "llama", "llama.rope.freq_base": 5e5, "llama.block_count": 32},
        ["metadata of a GGUF file", "theta 500000.0 for llama.rope.freq_base"],
    ),
    "vLLM": (
        {"model": "a/b", "max_model_len": 8192, "rope_scaling": {"rope_type": "linear"}},
        ["arguments of a server such as vLLM", "send the config.json of the model, 'a/b'"],
    ),
    "llama.cpp": ({"n_ctx": 8192, "rope_freq_base": 1e6}, ["options of llama.cpp or Ollama"]),
    "Ollama": ({"num_ctx": 8192, "temperature": 0.7}, ["options of llama.cpp or Ollama"]),
    "model_index.json": (
        {"_class_name": "FluxPipeline", "transformer": ["diffusers", "FluxTransformer2DModel"]},
        ["model_index.json of 'FluxPipeline'", "send transformer/config.json"],
    ),
    "scheduler_config.json": (
        {"_class_name": "EulerDiscreteScheduler", "num_train_timesteps": 1000},
        ["diffusers' class 'EulerDiscreteScheduler'", "of the folder transformer"],
    ),
    "mlc-chat-config.json": (
        {"model_type": "llama", "model_config": {"hidden_size": 64}, "quantization": "q4f16_1"},
        ["mlc-chat-config.json (it has model_config, quantization)", "config.json of the model"],
    ),
    "DeepSpeed": ({"zero_optimization": {"stage": 3}}, ["a config of training", SAME_FOLDER]),
    "pooling": (
        {"word_embedding_dimension": 768, "pooling_mode_cls_token": True},
        ["a config of Sentence Transformers", "of the model's main folder"],
    ),
}


@pytest.mark.parametrize(("file", "words"), OTHERS.values(), ids=OTHERS)
def test_another_file_is_named(file, words, tmp_path):
    path = tmp_path / "file.json"
    path.write_text(json.dumps(file))
    asked = [
        lambda: hf.resolve(file),
        lambda: hf.resolve(file, model_type="llama", head_dim=64),
        lambda: resolve(file),
        lambda: resolve({"config": file}),
        lambda: resolve(path),
    ]
    for ask in asked:
        with pytest.raises(ConfigError) as refused:
            ask()
        text = str(refused.value)
        assert text.startswith("config must be the contents of a model's config.json, got what ")
        assert all(word in text for word in words)


GPT_2 = {"n_embd": 768, "n_head": 12, "n_layer": 12, "n_positions": 1024, "n_ctx": 1024}
NAMES = (
    "hidden_size for n_embd, num_attention_heads for n_head, num_hidden_layers for n_layer, "
    "max_position_embeddings for n_positions"
)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({**GPT_2, "model_type": "my_gpt"}, ["the unknown 'my_gpt' and GPT-2's names", NAMES]),
        ({**GPT_2, "architectures": ["MyGPT"]}, ["no model_type and GPT-2's names", NAMES]),
        (GPT_2, ["no model_type and GPT-2's names", "the model_type of a known family"]),
        (
            {"model_type": "my_model", "d_model": 512, "num_heads": 8, "num_layers": 6},
            [
                "names of another family",
                "hidden_size for d_model",
                "num_attention_heads for num_he",
            ],
        ),
    ],
)
def test_names_of_another_family_are_named(config, words):
    with pytest.raises(ConfigError) as refused:
        resolve(config)
    assert all(word in str(refused.value) for word in words)


def test_a_known_family_has_its_own_names():
    gpt_j = {"n_embd": 64, "n_head": 4, "rotary_dim": 8}
    assert hf.resolve({**gpt_j, "model_type": "gptj"}).rope.rotary_dim == 8
    assert hf.resolve(gpt_j, model_type="gptj").rope.rotary_dim == 8


def test_no_config_of_a_model_looks_like_another_file():
    for preset in built_in().values():
        assert describe(preset.config) is None
    for config in (
        {"head_dim": 64, "bos_token_id": 1},
        {"hidden_size": 64, "num_attention_heads": 2, "quantization_config": {}},
        {"rope_theta": 1e4, "eos_token_id": 2},
        {"text_config": {"model_type": "llama"}, "bos_token_id": 1},
        {},
    ):
        assert describe(config) is describe_names(config) is None

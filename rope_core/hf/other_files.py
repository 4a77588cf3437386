"""Files that are no config.json of a model, and what to send in place of each."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rope_core.errors import ConfigError, brief
from rope_core.hf.families import diffusers_classes
from rope_core.hf.find_family import NESTED

Config = Mapping[str, Any]

EXPECTED = "the contents of a model's config.json"

OF_A_MODEL = frozenset(
    (
        *("model_type", "architectures", "hidden_size", "num_attention_heads", "head_dim"),
        *("num_hidden_layers", "intermediate_size", "vocab_size", "max_position_embeddings"),
        *(key for keys in NESTED.values() for key in keys),
    )
)
"""Keys that only the config of a model has."""

OF_A_ROPE = frozenset(("rope_theta", "rope_scaling", "rope_parameters", "rope_type"))
"""Keys that a config of a model has, and arguments of a server."""

NAMES = {
    "hidden_size": ("n_embd", "d_model", "dim", "embed_dim"),
    "num_attention_heads": ("n_head", "n_heads", "num_heads"),
    "num_key_value_heads": ("n_kv_heads", "num_kv_heads", "n_head_kv"),
    "num_hidden_layers": ("n_layer", "n_layers", "num_layers"),
    "max_position_embeddings": ("n_ctx", "n_positions", "max_seq_len", "seq_length"),
}
"""Names that single families have for keys of Llama's config."""

GPT_2 = frozenset(("n_embd", "n_head", "n_positions", "n_ctx"))


@dataclass(frozen=True, slots=True)
class OtherFile:
    """A kind of file that people send for a config.json."""

    name: str
    marks: tuple[str, ...]
    """Keys that show it. A mark `"a b"` is a pair of keys."""
    remedy: Callable[[Config], str] = lambda _: "send the config.json of the same folder"

    def mark(self, config: Config) -> str | None:
        """Return the keys of `config` that show this kind of file, None if there are none."""
        for mark in self.marks:
            if all(key in config for key in mark.split()):
                return ", ".join(mark.split())
        return None


def _base_model(config: Config) -> str:
    return f"send the config.json of the base model, {brief(config.get('base_model_name_or_path'))}"


def _served_model(config: Config) -> str:
    name = f", {brief(config['model'])}" if "model" in config else ""
    return f"send the config.json of the model{name}, with what these arguments override in it"


OPTIONS = (
    OtherFile(
        "arguments of a server such as vLLM",
        (
            *("max_model_len", "tensor_parallel_size", "gpu_memory_utilization", "hf_overrides"),
            *("max_num_seqs", "mem_fraction_static", "tp_size", "max_total_tokens"),
        ),
        _served_model,
    ),
    OtherFile(
        "options of llama.cpp or Ollama",
        (
            *("rope_freq_base", "rope_freq_scale", "rope_frequency_base", "rope_frequency_scale"),
            *("num_ctx", "num_predict", "num_gpu", "n_gpu_layers"),
        ),
        lambda _: "send the config.json of the model, or a rope with the base as theta",
    ),
)
"""Options of programs that run a model. They can have keys of a rope."""

WITH_KEYS_OF_A_MODEL = (
    OtherFile(
        "mlc-chat-config.json",
        ("model_config conv_template", "model_config quantization"),
        lambda _: "send the config.json of the model",
    ),
)
"""Files that name the model_type, and have the sizes of the model elsewhere."""

FILES = (
    OtherFile("adapter_config.json", ("peft_type", "lora_alpha"), _base_model),
    OtherFile(
        "tokenizer_config.json", ("tokenizer_class", "added_tokens_decoder", "chat_template")
    ),
    OtherFile("tokenizer.json", ("added_tokens model", "pre_tokenizer", "post_processor")),
    OtherFile("special_tokens_map.json", ("bos_token", "eos_token", "pad_token", "unk_token")),
    OtherFile(
        "preprocessor_config.json",
        ("image_processor_type", "video_processor_type", "feature_extractor_type", "image_mean"),
    ),
    OtherFile("processor_config.json", ("processor_class",)),
    OtherFile("the index of a model's weights", ("weight_map",)),
    OtherFile(
        "a config of quantization",
        (
            *("quant_method", "quantization_config", "bits group_size", "w_bit", "q_group_size"),
            *("producer quantization", "quantization", "load_in_4bit", "load_in_8bit"),
        ),
    ),
    OtherFile(
        "a config of training",
        ("zero_optimization", "per_device_train_batch_size", "log_history", "train_batch_size"),
    ),
    OtherFile(
        "a config of Sentence Transformers",
        ("similarity_fn_name", "pooling_mode_cls_token", "word_embedding_dimension"),
        lambda _: "send the config.json of the model's main folder",
    ),
    OtherFile(
        "generation_config.json",
        (
            *("_from_model_config", "do_sample", "max_new_tokens", "temperature", "top_p"),
            *("top_k", "repetition_penalty", "num_beams", "bos_token_id", "eos_token_id"),
        ),
    ),
)
"""Kinds of files. The first that fits names a file."""


def describe(config: Config) -> str | None:
    """Return what file this is and what to send, None for a config or a file of no known kind.

    >>> describe({"weight_map": {}})
    "the index of a model's weights (it has weight_map): send the config.json of the same folder"
    """
    for file in WITH_KEYS_OF_A_MODEL:
        if mark := file.mark(config):
            return f"{file.name} (it has {mark}): {file.remedy(config)}"
    if not OF_A_MODEL.isdisjoint(config):
        return None
    if isinstance(name := config.get("_class_name"), str):
        return _describe_diffusers(config, name)
    if key := next(filter(_is_gguf, config), None):
        return _describe_gguf(config, key)
    for file in OPTIONS if not OF_A_ROPE.isdisjoint(config) else (*OPTIONS, *FILES):
        if mark := file.mark(config):
            return f"{file.name} (it has {mark}): {file.remedy(config)}"
    return None


def describe_names(config: Config) -> str | None:
    """Return which names of Llama's config to send for others such as GPT-2's, None if it has them.

    >>> describe_names({"n_embd": 64, "n_head": 4})
    "GPT-2's names: send the model_type of a known family, or hidden_size for n_embd, \
num_attention_heads for n_head"
    """
    missing = [name for name in ("hidden_size", "num_attention_heads") if name not in config]
    if "head_dim" in config or not missing:
        return None
    found = {
        name: other
        for name, others in NAMES.items()
        for other in others
        if name not in config and other in config
    }
    if found.keys().isdisjoint(missing) or len(found) < len(missing):
        return None
    kind = "GPT-2's names" if GPT_2 & {*found.values()} else "names of another family"
    names = ", ".join(f"{name} for {other}" for name, other in found.items())
    return f"{kind}: send the model_type of a known family, or {names}"


def refuse(config: Config) -> None:
    """Raise ConfigError if `config` is a file of another kind."""
    if text := describe(config):
        raise ConfigError("config", EXPECTED, f"what looks like {text}")


def refuse_names(config: Config, model_type: str | None) -> None:
    """Raise ConfigError if the config of an unknown model has other names than Llama's."""
    if text := describe_names(config):
        kind = "no model_type" if model_type is None else f"the unknown {brief(model_type)}"
        expected = "of a known model_type or with Llama's names"
        raise ConfigError("config", expected, f"{kind} and {text}")


def _is_gguf(key: object) -> bool:
    ends = (".block_count", ".context_length", ".attention.head_count", ".rope.freq_base")
    starts = ("general.", "tokenizer.ggml.")
    return isinstance(key, str) and (key.startswith(starts) or key.endswith(ends))


def _describe_gguf(config: Config, mark: str) -> str:
    names = {"rope.freq_base": "theta", "rope.dimension_count": "rotary_dim"}
    found = [
        f"{name} {brief(config[key])} for {key}"
        for key in config
        for end, name in names.items()
        if isinstance(key, str) and key.endswith(f".{end}")
    ]
    parameters = f", or a rope of parameters: {', '.join(found)}" if found else ""
    return f"metadata of a GGUF file (it has {mark}): send the model's config.json{parameters}"


def _describe_diffusers(config: Config, name: str) -> str | None:
    if name in diffusers_classes():
        return None
    pipeline = [key for key, value in config.items() if isinstance(value, list) and key[:1] != "_"]
    if name.endswith("Pipeline") and pipeline:
        part = next((key for key in pipeline if "transformer" in key), pipeline[0])
        return f"model_index.json of {name[:64]!r}: send {part[:64]}/config.json"
    remedy = "send the config.json of the folder transformer"
    return f"the config of diffusers' class {name[:64]!r}, which is not known: {remedy}"

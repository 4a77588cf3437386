"""Mistakes in reading a model's config: another layer type, another version of transformers."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from rope_core.diagnosis.calls import Clues, RotaryCall
from rope_core.diagnosis.mistake import EVERY, Wrong, mistake
from rope_core.diagnosis.mistakes.changes import differ, parameter
from rope_core.errors import ConfigError
from rope_core.hf.resolve import COMPATS


@mistake(
    *EVERY,
    text="The rotation is that of {layer_type} layers.",
    remedy="Take the rope parameters of each layer from the entry of its type in rope_parameters.",
)
def layer_type_wrong(call: RotaryCall, clues: Clues) -> Iterator[Wrong]:
    """The parameters of another layer type are used.

    Looks like: layers of one type are right, and all layers of another type are wrong.
    Why: Gemma 3, ModernBERT, OLMo 3 and others have two bases, or scaling on one type only, and the
        code has one rotary embedding for all layers.
    Hugging Face: `rope_parameters["sliding_attention"]` and `["full_attention"]`; older Gemma 3
        files have `rope_local_base_freq`, ModernBERT `local_rope_theta`.
    vLLM: each attention layer calls `get_rope` with the parameters of its own type.
    llama.cpp: `<arch>.rope.freq_base` and `<arch>.rope.freq_base_swa`; scaling belongs to full
        layers.
    MLX: make the rotary embedding in each attention layer, by its type.
    Source: llama.cpp #14367, ferrox #39, tt-metal #22809.
    """
    if clues.resolve is None or clues.resolved is None:
        return
    types = dict.fromkeys(group.layer_type for group in clues.resolved.layers)
    for layer_type in types:
        if layer_type not in (None, clues.resolved.layer_type):
            yield from _resolved(call, clues, {"layer_type": layer_type})


@mistake(
    *EVERY,
    text="The rotation is what transformers {compat} makes of this config.",
    remedy="Compare with the version of transformers that the model was made for; pass compat to"
    " resolve as 4.57 does.",
)
def config_of_other_version(call: RotaryCall, clues: Clues) -> Iterator[Wrong]:
    """Another version of transformers reads the config in another way.

    Looks like: the numbers are those of a reference made with the other version of transformers.
    Why: version 5 moved keys into rope_parameters, by layer type where types differ, and fixed what
        some classes did not read.
    Hugging Face: 4.57 reads rope_scaling and the keys outside of it only; 5 reads rope_parameters
        first. Save the config again with the version that you serve with.
    vLLM: follows the transformers that is installed.
    llama.cpp: what `convert_hf_to_gguf.py` read is in the GGUF file; convert again.
    MLX: `ModelArgs` of the model file reads the keys by itself, mostly those of 4.57.
    Source: vllm #28542 and #29700, sglang #14745, SkyRL #690, Liger #1013.
    """
    for compat in COMPATS:
        yield from _resolved(call, clues, {"compat": compat})


def _resolved(call: RotaryCall, clues: Clues, options: Mapping[str, Any]) -> Iterator[Wrong]:
    """Return the call with the rope that other options resolve to."""
    if clues.resolve is None:
        return
    with suppress(ConfigError):
        rope = clues.resolve(**options).rope
        if rope is None:
            return
        if rope.needs_length:
            last = int(call.positions.max()) + 1 if call.positions.numel() else 0
            rope = rope.for_length(parameter(call, "length") or last)
        wrong = replace(call, rope=rope)
        if differ(wrong, call):
            yield options, wrong

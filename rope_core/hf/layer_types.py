"""Rules by which some classes give each layer a type, where the file does not."""

from collections.abc import Callable

from rope_core.errors import ConfigError
from rope_core.hf.config_reader import Reader, brief

Stack = Callable[[Reader, int], list[str]]
"""From the number of layers to the type of each."""

FULL, SLIDING = "full_attention", "sliding_attention"


def no_rope_layers(reader: Reader, layer: int) -> str | None:
    """Return why a layer does not rotate, by Llama 4's rule; None where it does."""
    flags = reader.given("no_rope_layers")
    if flags:  # 1 says that the layer does rotate
        if not isinstance(flags, list) or layer >= len(flags):
            expected = f"a list of more than {layer} numbers, one for each layer"
            raise ConfigError("no_rope_layers", expected, brief(flags))
        return None if flags[layer] else f"no_rope_layers[{layer}] is 0"
    interval = reader.size("no_rope_layer_interval")
    return f"every {interval}th layer rotates nothing" if (layer + 1) % interval == 0 else None


def has_window(reader: Reader) -> bool:
    """Whether the file leaves sliding windows on."""
    off = reader.get("use_sliding_window") is False or reader.is_null("sliding_window")
    return not off and reader.get("sliding_window") is not None


def max_window_layers(reader: Reader, total: int) -> list[str]:
    """Qwen: windows from layer max_window_layers on."""
    first = reader.number("max_window_layers") if has_window(reader) else total
    return [SLIDING if layer >= first else FULL for layer in range(total)]


def odd_windows(reader: Reader, total: int) -> list[str]:
    """Qwen2-MoE: windows in every other layer before max_window_layers."""
    end = reader.number("max_window_layers") if has_window(reader) else 0
    return [SLIDING if layer % 2 == 0 and layer < end else FULL for layer in range(total)]


def window(reader: Reader, total: int) -> list[str]:
    """Ministral: all layers alike."""
    return [SLIDING if has_window(reader) else FULL] * total


def window_without_rope(reader: Reader, total: int) -> list[str]:
    """SmolLM3: windows in the layers that do not rotate."""
    windowed = has_window(reader)
    skipped = [windowed and no_rope_layers(reader, layer) for layer in range(total)]
    return [SLIDING if reason else FULL for reason in skipped]


def chunk_with_rope(reader: Reader, total: int) -> list[str]:
    """Llama 4: chunks in the layers that rotate."""
    skipped = [no_rope_layers(reader, layer) for layer in range(total)]
    return [FULL if reason else "chunked_attention" for reason in skipped]


def full_attn_idxs(reader: Reader, total: int) -> list[str]:
    """LFM2: a list of the attention layers, all where there is none; the rest convolve."""
    full = reader.given("full_attn_idxs")
    if full is None:
        return [FULL] * total
    if not isinstance(full, list) or not all(type(item) is int for item in full):
        raise ConfigError("full_attn_idxs", "a list of whole numbers", brief(full))
    at = set(full)
    return [FULL if layer in at else "conv" for layer in range(total)]


def from_last(reader: Reader, total: int) -> list[str]:
    """Muse: the cycle ends with the last layer."""
    cycle = reader.family.cycle
    return [cycle[(layer - total) % len(cycle)] for layer in range(total)]


RATIOS = {0: SLIDING, 4: "compressed_sparse_attention", 128: "heavily_compressed_attention"}


def compress_ratios(reader: Reader, total: int) -> list[str]:
    """DeepSeek-V4: by how much keys are compressed; two layers heavily, then in turns."""
    ratios = reader.given("compress_ratios")
    if ratios is None:
        turns = (RATIOS[128], RATIOS[4])
        return [RATIOS[128] if layer < 2 else turns[layer % 2] for layer in range(total)]
    if not isinstance(ratios, list) or not all(
        type(ratio) is int and ratio in RATIOS for ratio in ratios
    ):
        raise ConfigError("compress_ratios", f"a list of {[*RATIOS]}", brief(ratios))
    if len(ratios) < total:
        raise ConfigError("compress_ratios", f"a list of {total} numbers", f"{len(ratios)}")
    return [RATIOS[ratio] for ratio in ratios[:total]]


_ALL: tuple[Stack, ...] = (
    *(max_window_layers, odd_windows, window, window_without_rope, chunk_with_rope),
    *(full_attn_idxs, from_last, compress_ratios),
)
STACKS = {function.__name__: function for function in _ALL}
"""The rules by name, as rows of the table have them."""

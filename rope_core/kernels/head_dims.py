"""Head widths that have kernels. Does not import Triton."""

HEAD_DIMS = frozenset({*range(16, 257, 16), 72, 88})
"""A list, as each width is a kernel of its own: 72 and 88 are those of SigLIP's, Qwen3-VL's and
Llama 4's vision."""

MLA_HEAD_DIMS = 192, 128
"""Widths of keys and of values in multi-head latent attention: the only ones that differ."""

PARTIAL_ROTARY_DIMS = frozenset({(80, 32), (192, 64)})
"""Widths of heads with their `rotary_dim`, where this is not a multiple of a quarter."""

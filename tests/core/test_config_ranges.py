"""A parameter out of its range is refused, and the text names the parameter and its value."""

import math

import pytest
import torch

from rope_core import Attend, AttentionConfig, ConfigError, RopeConfig
from rope_core.config import MAX_HEAD_DIM

X = torch.zeros(2, 3, 4, 8)
K = torch.zeros(2, 5, 2, 8)


def attend(rope):
    return lambda: Attend(X, K, K, rope)


def of(head_dim=8, **given):
    return lambda: RopeConfig.of(head_dim, **given)


def attention(**given):
    return lambda: AttentionConfig(**given)


CONFIGS = [
    (of(0), "head_dim", "got 0"),
    (of(-8), "head_dim", "got -8"),
    (of(MAX_HEAD_DIM + 2), "head_dim", f"in [1, {MAX_HEAD_DIM}], got {MAX_HEAD_DIM + 2}"),
    (of(7), "rotary_dim", "even and in [2, head_dim = 7], got 7"),
    (of(rotary_dim=3), "rotary_dim", "even"),
    (of(rotary_dim=0), "rotary_dim", "got 0"),
    (of(rotary_dim=-2), "rotary_dim", "got -2"),
    (of(rotary_dim=10), "rotary_dim", "head_dim = 8], got 10"),
    (of(theta=math.nan), "theta", "got nan"),
    (of(theta=math.inf), "theta", "got inf"),
    (of(theta=-math.inf), "theta", "got -inf"),
    (of(theta=0.0), "theta", "got 0.0"),
    (of(theta=-10_000.0), "theta", "got -10000.0"),
    (of(theta=2e12), "theta", "finite and in [1e-6, 1e12]"),
    (of(layout="neox"), "layout", "'neox'"),
    (of(layout=""), "layout", "one of ['half', 'interleaved',"),
    (attention(window=0), "window", "got 0"),
    (attention(window=-1), "window", "got -1"),
    (attention(window=2**31), "window", f"got {2**31}"),
    (attention(window=3, causal=False, window_ahead=-1), "window_ahead", "got -1"),
    (attention(window=3, causal=False, window_ahead=2**31), "window_ahead", f"got {2**31}"),
    (attention(window=3, window_ahead=1), "window_ahead", "0 unless there is a window and causal"),
    (attention(causal=False, window_ahead=1), "window_ahead", "is false, got 1"),
    (attention(chunk=0), "chunk", "in [1, 2147483647], got 0"),
    (attention(chunk=-1), "chunk", "got -1"),
    (attention(chunk=2**31), "chunk", f"got {2**31}"),
    (attention(softcap=0.0), "softcap", "in [1e-30, 1e+30], got 0.0"),
    (attention(softcap=-1.0), "softcap", "got -1.0"),
    (attention(softcap=math.nan), "softcap", "got nan"),
    (attention(softcap=math.inf), "softcap", "got inf"),
    (attention(scale=math.nan), "scale", "in [-1e+30, 1e+30], got nan"),
    (attention(scale=-math.inf), "scale", "in [-1e+30, 1e+30], got -inf"),
    (attend(rope=RopeConfig.of(6)), "head_dim", "that of q, 8, got 6"),
]


@pytest.mark.parametrize(("config", "parameter", "text"), CONFIGS)
def test_a_parameter_out_of_range_is_named(config, parameter, text):
    with pytest.raises(ConfigError) as refused:
        config()
    assert refused.value.parameter == parameter
    assert str(refused.value).startswith(f"{parameter} must be ")
    assert text in str(refused.value)

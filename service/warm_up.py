"""What is loaded or built at its first use, is before the service is ready."""

from collections.abc import Iterator, Sequence
from contextlib import suppress

import torch

from rope_core import Attend, Call, CosSin, Merge, NoBackend, RopeConfig, Rotate, Shift
from rope_core.checks import DTYPES
from service.choice import Choice
from service.engine import Engine

LAYOUTS = ("half", "interleaved")

TOKENS = 16


def warm_up(engine: Engine, choice: Choice, shapes: Sequence[tuple[int, int, int]]) -> None:
    """Run each operation in each dtype and layout, for each shape: heads, of keys, and width."""
    for heads, kv_heads, head_dim in shapes:
        for layout in LAYOUTS:
            rope = RopeConfig.of(head_dim, layout=layout)
            for dtype in DTYPES:
                for call in _calls(heads, kv_heads, rope, dtype):
                    with suppress(NoBackend):  # the operator's choice, which requests are told
                        engine.run([engine.job(call, choice.of(call, None))])


def _calls(heads: int, kv_heads: int, rope: RopeConfig, dtype: torch.dtype) -> Iterator[Call]:
    head_dim = rope.head_dim
    q, k = (torch.zeros(1, TOKENS, n, head_dim, dtype=dtype) for n in (heads, kv_heads))
    last = torch.tensor([TOKENS - 1])
    yield Rotate(q, k, rope)
    yield Attend(q, k, k, rope, return_lse=True)
    yield Attend(q[:, -1:], k, k, rope, q_positions=last, return_lse=True)  # a step of decoding
    yield Shift(k, torch.tensor(1), rope)
    yield Merge(q[None], torch.zeros(1, 1, TOKENS, heads))
    yield CosSin(torch.arange(TOKENS), rope)

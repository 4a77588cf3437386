"""Find out whether numbers are those of a rope, and which mistake explains them if not."""

from typing import Any

from torch import Tensor

from rope_core.config import AttentionConfig
from rope_core.diagnosis.result import Diagnosis
from rope_core.functional.arguments import Numbers
from rope_core.sources import RopeSource


def diagnose(
    rope: RopeSource | None,
    *,
    before: Tensor | None = None,
    after: Tensor | None = None,
    cos: Tensor | None = None,
    sin: Tensor | None = None,
    inv_freq: Tensor | None = None,
    q: Tensor | None = None,
    k: Tensor | None = None,
    v: Tensor | None = None,
    out: Tensor | None = None,
    lse: Tensor | None = None,
    positions: Numbers | None = None,
    attention: AttentionConfig | None = None,
    max_mistakes: int = 2,
    tolerance: float | None = None,
    **attention_arguments: Any,
) -> Diagnosis:
    """Say whether numbers are those of a rope, and which known mistakes reproduce them if not.

    Give one kind of evidence: a rotation (`before`, `after`), a table (`cos`, `sin`), frequencies
    (`inv_freq`), or attention (`q`, `k`, `v` before rotation, and `out`).
    """
    raise NotImplementedError

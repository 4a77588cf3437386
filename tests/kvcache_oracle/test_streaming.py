"""A long stream keeps its memory, its two segments and its error."""

import pytest

from tests.kvcache_oracle.judge import CALL_BOUND
from tests.kvcache_oracle.streaming import stream


@pytest.mark.parametrize(("dtype", "num_steps"), [("float32", 1500), ("bfloat16", 500)])
def test_a_stream_does_not_grow(dtype: str, num_steps: int) -> None:
    samples = stream(num_steps, dtype=dtype)
    assert {sample.segments for sample in samples} == {2}
    assert max(sample.used_bytes for sample in samples) <= 2 * min(
        sample.used_bytes for sample in samples
    )
    assert samples[-1].resident_bytes - samples[1].resident_bytes <= 2**22
    assert max(sample.error for sample in samples) <= CALL_BOUND[dtype]
    drift = samples[-1].error - samples[1].error
    assert drift <= CALL_BOUND[dtype] / 4

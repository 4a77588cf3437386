"""What the tests of sessions share: a service, clients of both kinds, inputs and numbers."""

import inspect as python_inspect

import numpy as np

from tests.client.fake_sessions import attend

HEADS, KV_HEADS, DIM = 4, 2, 8
CONFIGURATION = {"heads": HEADS, "kv_heads": KV_HEADS, "head_dim": DIM, "rope": {"theta": 1e4}}
GROUP = {**CONFIGURATION, "attention": {"window": None}}


def tokens(n, batch=1, seed=0, dtype=np.float32):
    """Return q, k, v of n tokens a row."""
    rng = np.random.default_rng(seed)
    shapes = [(batch, n, heads, DIM) for heads in (HEADS, KV_HEADS, KV_HEADS)]
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


def expected(q, k, v, positions=None):
    """Return attention of one row in float64: queries of the last tokens."""
    positions = range(len(k)) if positions is None else positions
    k, v = k.astype(float), v.astype(float)
    kept = [*zip(positions, k, v, strict=True)]
    return attend(GROUP, kept, q)[0].reshape(q.shape)


class Asked:
    """Awaits the methods of a blocking or asynchronous object; a test is written once for both."""

    def __init__(self, thing):
        self.thing = thing

    def __getattr__(self, name):
        value = getattr(self.thing, name)
        if not callable(value):
            return value

        async def call(*args, **kwargs):
            answer = value(*map(bare, args), **{key: bare(arg) for key, arg in kwargs.items()})
            if python_inspect.isawaitable(answer) or hasattr(answer, "__await__"):
                answer = await answer
            return wrapped(answer)

        return call


async def close(stream):
    """Close a stream of either kind."""
    await (stream.aclose if hasattr(stream.thing, "aclose") else stream.close)()


def bare(value):
    if isinstance(value, list):
        return [bare(each) for each in value]
    if isinstance(value, tuple):
        return tuple(bare(each) for each in value)
    return value.thing if isinstance(value, Asked) else value


def wrapped(value):
    kinds = ("Session", "Stream", "AsyncSession", "AsyncStream")
    if isinstance(value, list):
        return [wrapped(each) for each in value]
    return Asked(value) if type(value).__name__ in kinds else value

"""Calls that are refused, each for one reason."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tests.kvcache_oracle.calls import Call, Given, Numbers
from tests.kvcache_oracle.sessions import ListSession

if TYPE_CHECKING:
    from tests.kvcache_oracle.programs import Writer


def make(writer: "Writer", number: int, session: ListSession) -> Call | None:
    """Return a call that does not fit the session; None if there is none of the chosen kind."""
    rng, cache = writer.rng, session.cache
    layer = rng.choice(cache.layers)
    group, dtype = cache.config.group(layer), cache.config.dtype
    batch = len(cache.rows)

    def inputs(names: str, n: int, num_rows: int = batch) -> dict[str, Numbers | Given]:
        made: dict[str, Numbers | Given] = {}
        for name in names:
            heads = group.heads if name == "q" else group.kv_heads
            width = group.value_dim if name == "v" else group.head_dim
            made[name] = writer.numbers(num_rows, n, heads, width, dtype=dtype)
        return made

    length = cache.length
    too_many = max(cache.lengths(layer)) + 1
    kind = rng.choice(KINDS)
    params: dict[str, Any] = {"layer": layer}
    if kind == "too long" and cache.max_tokens is not None:
        n = cache.max_tokens - min(cache.lengths(layer)) + 1
        return Call(number, "append", params, inputs("kv", n))
    if kind == "too many queries":
        return Call(number, "attend", params, inputs("q", too_many))
    if kind == "truncate beyond":
        return Call(number, "truncate", {"length": [each + 1 for each in length]})
    if kind == "places" and cache.is_level:
        return Call(number, "evict", {"start": 0, "stop": max(length) + 1})
    if kind == "negative places" and cache.is_level:
        return Call(number, "shift", {"start": -1, "stop": 0, "delta": [1] * cache.config.num_axes})
    if kind == "row":
        return Call(number, "reorder", {"rows": [0, batch]})
    if kind == "row twice":
        return Call(number, "append", params | {"rows": [0, 0]}, inputs("kv", 1, 2))
    if kind == "layer":
        return Call(number, "append", {"layer": len(cache.layers)}, inputs("kv", 1))
    if kind == "heads":
        given = inputs("kv", 1)
        k = given["k"]
        assert isinstance(k, Numbers)
        shape = (*k.shape[:2], k.shape[2] + 1, k.shape[3])
        return Call(number, "append", params, given | {"k": replace(k, shape=shape)})
    if kind == "dtype":
        other = "float16" if dtype != "float16" else "float32"
        given = {name: replace(each, dtype=other) for name, each in inputs("kv", 1).items()}
        return Call(number, "append", params, given)
    if kind == "empty step":
        return Call(number, "step", params, inputs("qkv", 0))
    if kind == "position differs":
        ahead = [row[cache.lengths(layer)[i]] for i, row in enumerate(cache.rows)
                 if cache.lengths(layer)[i] < len(row)]  # fmt: skip
        if len(ahead) < batch:
            return None
        wrong = [[token.position[0] + 1] for token in ahead]
        axes = cache.config.num_axes
        positions = Given(wrong if axes == 1 else [wrong] * axes)
        return Call(number, "append", params, inputs("kv", 1) | {"positions": positions})
    if kind == "kept" and cache.is_level and min(length) >= 2:
        return Call(number, "select_tail", {"n": 2, "kept": [1, 0]})
    if kind == "tail beyond" and cache.is_level:
        return Call(number, "select_tail", {"n": min(length) + 1, "kept": []})
    if kind == "layers differ" and not cache.is_level:
        return Call(number, "fork", {"strict": True}, new=writer.num_sessions)
    if kind == "fork beyond":
        return Call(number, "fork", {"length": max(length) + 1}, new=writer.num_sessions)
    if kind == "foreign source":
        others = [
            each
            for each, other in writer.service.sessions.items()
            if other.cache.config.groups != cache.config.groups and other.cache.is_level
        ]
        if others and cache.is_level:
            return Call(number, "attach", {"source": others[0], "start": 0, "stop": 0})
    if kind == "mask":
        shortest = min(cache.lengths(layer))
        mask = Given([[True] * (max(cache.lengths(layer)) + 1)], "bool")
        if shortest:
            return Call(number, "attend", params, inputs("q", 1) | {"tail_mask": mask})
    if writer.is_wire:
        return _on_the_wire(kind, number, session, params, inputs("kv", 1))
    return None


def _on_the_wire(
    kind: str,
    number: int,
    session: ListSession,
    params: dict[str, Any],
    given: dict[str, Numbers | Given],
) -> Call | None:
    cache = session.cache
    if kind == "guard":
        lengths = [each + 1 for each in cache.lengths(params["layer"])]
        return Call(number, "append", params | {"expected_length": lengths}, given)
    if kind == "generation":
        return Call(
            number,
            "append",
            params
            | {
                "expected_length": cache.lengths(params["layer"]),
                "expected_generation": cache.generation + 1,
            },
            given,
        )
    if kind == "guard of all layers":
        lengths = [each + 1 for each in cache.length]
        return Call(number, "truncate", {"length": 0, "expected_length": lengths})
    if kind == "unknown" and given:
        return Call(number, "append", params | {"softcap": 3.0}, given)
    return None


KINDS = (
    "too long", "too many queries", "truncate beyond", "places", "negative places", "row",
    "row twice", "layer", "heads", "dtype", "empty step", "position differs", "kept",
    "tail beyond", "layers differ", "fork beyond", "foreign source", "mask", "guard",
    "generation", "guard of all layers", "unknown",
)  # fmt: skip

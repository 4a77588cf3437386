"""Random programs: several sessions, all operations, legal and not, retries and two writers."""

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tests.kvcache_oracle.calls import Call, Given, Numbers, Refused
from tests.kvcache_oracle.configurations import Configuration, Group, Rope
from tests.kvcache_oracle.sessions import ListService, ListSession

MAX_SESSIONS = 4
MAX_LENGTH = 40
DTYPES = ("float32", "float32", "float32", "bfloat16", "float16")
ROPES = (
    Rope(),
    Rope(theta=500_000.0, layout="interleaved"),
    Rope(rotary_dim=4),
    Rope(sections=(2, 1, 1)),
)


def configuration(rng: random.Random) -> Configuration:
    """Return a random configuration of one or two layers."""
    rope = rng.choice([*ROPES, None])
    heads, kv_heads = rng.choice([(2, 1), (4, 2), (2, 2)])
    group = Group(
        layers=(0,),
        heads=heads,
        kv_heads=kv_heads,
        value_dim=rng.choice([8, 8, 8, 4]),
        rope=rope,
        causal=rng.random() < 0.9,
        window=rng.choice([None, None, None, 3, 7]),
        chunk=rng.choice([None, None, None, None, 5]),
        softcap=rng.choice([None, None, None, 2.0]),
        scale=rng.choice([None, None, 0.5]),
        sinks=rng.choice([None, None, tuple(rng.gauss(0, 1) for _ in range(heads))]),
        rollback=rng.choice([64, 4, 0]),
    )
    shape = rng.random()
    groups: tuple[Group, ...] = (group,)
    if shape < 0.3:
        groups = (replace(group, layers=(0, 1)),)
    elif shape < 0.65:
        other = Rope(theta=100.0, layout=rope.layout, sections=rope.sections) if rope else None
        no_rope = rope is not None and rope.sections is None and rng.random() < 0.3
        second = Group(
            layers=(1,),
            window=rng.choice([3, 7, None]),
            rope=None if no_rope else other,
            rollback=rng.choice([64, 4]),
        )
        groups = (group, second)
    return Configuration(groups, rng.choice(DTYPES))


class Writer:
    """Writes a program; it runs its calls on lists to know what is legal.

    Args:
        seed: of the program.
        is_wire: guards, repeats, names and snapshots, which the library has not.
    """

    def __init__(self, seed: int, is_wire: bool) -> None:
        self.rng = random.Random(seed)
        self.seed = seed
        self.is_wire = is_wire
        self.service = ListService()
        self.calls: list[Call] = []
        self.num_sessions = 0
        self.num_tensors = 0
        self.configs = [configuration(self.rng)]
        if self.rng.random() < 0.3:
            self.configs.append(configuration(self.rng))
        self.seen: dict[int, list[tuple[list[int], int]]] = {}
        """Lengths and generations that a second writer may still believe in."""
        self.create()

    def write(self, num_calls: int) -> list[Call]:
        choices: list[tuple[int, Callable[[], None]]] = [
            (30, self.token),
            (6, self.layer_step),
            (6, self.append),
            (12, self.attend),
            (7, self.truncate),
            (4, self.select_tail),
            (5, self.fork),
            (4, self.reorder),
            (9, self.evict),
            (6, self.shift),
            (6, self.attach),
            (2, self.create),
            (2, self.delete),
            (8, self.bad),
        ]
        if self.is_wire:
            choices += [(5, self.stale), (6, self.resend), (3, self.patch), (4, self.inspect)]
        else:
            choices += [(3, self.compact)]
        weights = [weight for weight, _ in choices]
        while len(self.calls) < num_calls:
            self.rng.choices(choices, weights)[0][1]()
        return self.calls

    # helpers

    def emit(self, call: Call) -> bool:
        """Add a call to the program; return whether the lists take it."""
        self.calls.append(call)
        session = self.service.sessions.get(call.session)
        if session is not None and self.rng.random() < 0.3:
            state = (session.cache.length, session.cache.generation)
            self.seen.setdefault(call.session, []).append(state)
        try:
            self.service.call(call)
        except Refused:
            return False
        return True

    def pick(self) -> tuple[int, ListSession]:
        live = [*self.service.sessions]
        if not live:
            self.create()
            live = [*self.service.sessions]
        number = self.rng.choice(live)
        return number, self.service.sessions[number]

    def numbers(self, *shape: int, dtype: str) -> Numbers:
        self.num_tensors += 1
        return Numbers(self.seed * 10_000 + self.num_tensors, shape, dtype)

    def guard(self, session: ListSession, layer: int | None = None) -> dict[str, Any]:
        """Return guards that hold; sometimes none, of the library never any."""
        if not self.is_wire or self.rng.random() < 0.15:
            return {}
        cache = session.cache
        length = cache.length if layer is None else cache.lengths(layer)
        params: dict[str, Any] = {"expected_length": length}
        if len({*length}) == 1 and self.rng.random() < 0.3:
            params["expected_length"] = length[0]
        if self.rng.random() < 0.8:
            params["expected_generation"] = cache.generation
        return params

    def delivery(self, params: dict[str, Any]) -> str:
        """Return how a mutation is sent: again only where a repeat is recognised."""
        if self.is_wire and ("expected_length" in params or "op_id" in params):
            return self.rng.choices(["once", "twice", "dropped"], [6, 2, 2])[0]
        return "once"

    def structural(self, session: ListSession) -> dict[str, Any]:
        params = self.guard(session)
        if self.is_wire and self.rng.random() < 0.6:
            params["op_id"] = f"op-{len(self.calls)}"
        elif self.is_wire:
            params.pop("op_id", None)
        return params

    def positions(self, session: ListSession, shape: tuple[int, ...]) -> Given:
        """Return random positions, of each axis if there are several."""
        axes = session.cache.config.num_axes
        full = shape if axes == 1 else (axes, *shape)

        def fill(left: tuple[int, ...]) -> Any:
            if not left:
                return self.rng.randrange(0, 60)
            return [fill(left[1:]) for _ in range(left[0])]

        return Given(fill(full))

    # appends and attends

    def run(
        self, operation: str, number: int, layers: list[int], n: int, *, level: bool = False
    ) -> bool:
        """Emit an append, an attend or a step of `layers`."""
        rng = self.rng
        session = self.service.sessions[number]
        cache, config = session.cache, session.cache.config
        group = config.group(layers[0])
        params: dict[str, Any] = {}
        inputs: dict[str, Numbers | Given] = {}
        rows = [*range(len(cache.rows))]
        if len(rows) > 1 and not level and rng.random() < 0.25:
            rows = rng.sample(rows, rng.randrange(1, len(rows)))
            params["rows"] = rows
        lead: tuple[int, ...] = (len(rows), n)
        counts = [n] * len(rows)
        is_packed = rng.random() < 0.2 and not level
        if is_packed:
            if operation == "append":
                counts = [rng.randrange(0, n + 1) for _ in rows]
            elif operation == "step":
                counts = [rng.randrange(1, n + 1) for _ in rows]
            elif operation == "attend":
                limits = [min(cache.lengths(layer)[row] for layer in layers) for row in rows]
                counts = [rng.randrange(0, min(n, limit) + 1) for limit in limits]
            ends = [sum(counts[:i]) for i in range(len(counts) + 1)]
            inputs["cu_seqlens"] = Given(ends, "int32")
            lead = (sum(counts),)
        stack: tuple[int, ...] = ()
        if len(layers) > 1 or rng.random() < 0.05:
            params["layers"] = layers
            stack = (len(layers),)
        elif len(cache.layers) > 1 or rng.random() < 0.5:
            params["layer"] = layers[0]
        dtype = config.dtype
        if operation != "append":
            shape = (*stack, *lead, group.heads, group.head_dim)
            inputs["q"] = self.numbers(*shape, dtype=dtype)
            if rng.random() < 0.4:
                params["return_lse"] = True
            if rng.random() < 0.2:
                params["out_dtype"] = "float32"
        if operation != "attend":
            shape = (*stack, *lead, group.kv_heads)
            inputs["k"] = self.numbers(*shape, group.head_dim, dtype=dtype)
            inputs["v"] = self.numbers(*shape, group.value_dim, dtype=dtype)
            guard = self.guard(session, layers[0])
            if isinstance(guard.get("expected_length"), list):
                guard["expected_length"] = [guard["expected_length"][row] for row in rows]
            params |= guard
            if rng.random() < 0.15 and n and not self._is_known(session, layers, rows, counts):
                inputs["positions"] = self.positions(session, lead)
        elif group.rope and rng.random() < 0.3:
            inputs["positions"] = self.positions(session, lead)
            if rng.random() < 0.5:
                index = [rng.randrange(0, MAX_LENGTH) for _ in range(sum(counts))]
                width = n if not is_packed else 1
                split = [index[i * width : (i + 1) * width] for i in range(len(rows))]
                inputs["q_index"] = Given(index if is_packed else split)
        if operation != "append" and not is_packed and rng.random() < 0.15 and n:
            new = n if operation == "step" else 0
            limit = min(min(cache.lengths(layer)[row] for row in rows) for layer in layers) + new
            if limit:
                inputs["tail_mask"] = self.mask(n, rng.randrange(1, limit + 1), len(rows))
        return self.emit(Call(number, operation, params, inputs, delivery=self.delivery(params)))

    def mask(self, n: int, m: int, num_rows: int) -> Given:
        def one() -> list[list[bool]]:
            return [[self.rng.random() < 0.7 for _ in range(m)] for _ in range(n)]

        return Given([one() for _ in range(num_rows)] if self.rng.random() < 0.4 else one(), "bool")

    @staticmethod
    def _is_known(
        session: ListSession, layers: list[int], rows: list[int], counts: list[int]
    ) -> bool:
        """Whether another layer has given a position to one of the new tokens."""
        cache = session.cache
        return len(layers) > 1 or any(
            cache.lengths(layer)[row] < len(cache.rows[row]) for layer in layers for row in rows
        )

    def fits(self, session: ListSession, n: int) -> bool:
        longest = max((len(row) for row in session.cache.rows), default=0)
        return longest + n <= min(session.cache.max_tokens or MAX_LENGTH, MAX_LENGTH)

    def token(self) -> None:
        """Steps of all layers: a token, a draft or a piece of a prompt."""
        number, session = self.pick()
        cache = session.cache
        n = self.rng.choice([1, 1, 1, 2, 3, 5, 9])
        if session.is_frozen or not self.fits(session, n):
            return
        if not cache.is_level:
            self.truncate_to(number, cache.length)
        for layer in cache.layers:
            self.run(self.rng.choice(["step", "step", "append"]), number, [layer], n, level=True)

    def layer_step(self) -> None:
        """A step of one layer, or of the layers of a group; lengths may differ after it."""
        number, session = self.pick()
        n = self.rng.choice([1, 2, 4])
        group = self.rng.choice(session.cache.config.groups)
        layers = [*group.layers] if self.rng.random() < 0.5 else [self.rng.choice(group.layers)]
        level = len({tuple(session.cache.lengths(layer)) for layer in layers}) == 1
        if self.fits(session, n) and level:
            self.run("step", number, layers, n)

    def append(self) -> None:
        number, session = self.pick()
        n = self.rng.choice([0, 1, 3, 6])
        layer = self.rng.choice(session.cache.layers)
        if self.fits(session, n):
            self.run("append", number, [layer], n)

    def attend(self) -> None:
        number, session = self.pick()
        layer = self.rng.choice(session.cache.layers)
        shortest = min(session.cache.lengths(layer), default=0)
        self.run("attend", number, [layer], self.rng.randrange(0, min(shortest, 4) + 1))

    # operations on all layers

    def truncate_to(self, number: int, lengths: list[int]) -> None:
        params: dict[str, Any] = {"length": lengths}
        session = self.service.sessions[number]
        params |= self.structural(session)
        self.emit(Call(number, "truncate", params, delivery=self.delivery_of(params)))

    def delivery_of(self, params: dict[str, Any]) -> str:
        return self.delivery({name: params[name] for name in params if name == "op_id"})

    def truncate(self) -> None:
        number, session = self.pick()
        lengths = session.cache.length
        if self.rng.random() < 0.3:
            params: dict[str, Any] = {"drop": self.rng.randrange(0, min(lengths) + 1)}
        elif self.rng.random() < 0.5:
            params = {"length": self.rng.randrange(0, min(lengths) + 1)}
        else:
            params = {
                "length": [length - self.rng.randrange(0, min(length, 5) + 1) for length in lengths]
            }
        params |= self.structural(session)
        self.emit(Call(number, "truncate", params, delivery=self.delivery_of(params)))

    def level(self) -> tuple[int, ListSession]:
        """Return a session, mostly with level layers."""
        number, session = self.pick()
        if not session.cache.is_level and not session.is_frozen and self.rng.random() < 0.7:
            self.truncate_to(number, session.cache.length)
        return number, session

    def select_tail(self) -> None:
        number, session = self.level()
        cache = session.cache
        n = self.rng.randrange(0, min(min(cache.length), 5) + 1)

        def kept() -> list[int]:
            return sorted(self.rng.sample(range(n), self.rng.randrange(0, n + 1)))

        for row, length in zip(cache.rows, cache.length, strict=True):
            index = [token.index for token in row[length - n : length]]
            if index and index != [*range(index[0], index[0] + n)]:
                return  # what becomes of holes is not said
        each = [kept() for _ in cache.rows] if self.rng.random() < 0.5 else kept()
        params = {"n": n, "kept": each} | self.structural(session)
        self.emit(Call(number, "select_tail", params, delivery=self.delivery_of(params)))

    def fork(self) -> None:
        number, session = self.pick()
        cache = session.cache
        if len(self.service.sessions) >= MAX_SESSIONS:
            return
        params: dict[str, Any] = {}
        count = self.rng.choice([1, 1, 2])
        if count > 1:
            params["count"] = count
        rows = [*range(len(cache.rows))]
        if self.rng.random() < 0.3:
            rows = [self.rng.choice(rows) for _ in range(self.rng.randrange(1, 4))]
            params["rows"] = rows
        if self.rng.random() < 0.4:
            params["length"] = [self.rng.randrange(0, cache.length[row] + 1) for row in rows]
        if self.rng.random() < 0.1:
            params["strict"] = True
        if self.emit(Call(number, "fork", params, new=self.num_sessions)):
            self.num_sessions += count

    def reorder(self) -> None:
        number, session = self.level()
        rows = range(len(session.cache.rows))
        params: dict[str, Any] = {
            "rows": [self.rng.choice(rows) for _ in range(self.rng.randrange(1, 4))]
        }
        params |= self.structural(session)
        self.emit(Call(number, "reorder", params, delivery=self.delivery_of(params)))

    def range(self, session: ListSession) -> dict[str, Any]:
        """Return rows, start and stop of a range of places."""
        cache, rng = session.cache, self.rng
        rows = [*range(len(cache.rows))]
        params: dict[str, Any] = {}
        if len(rows) > 1 and rng.random() < 0.3:
            rows = rng.sample(rows, rng.randrange(1, len(rows)))
            params["rows"] = rows
        if rng.random() < 0.5:
            shortest = min(cache.length[row] for row in rows)
            ends = sorted(rng.randrange(0, shortest + 1) for _ in range(2))
            return params | {"start": ends[0], "stop": ends[1]}
        each = [sorted(rng.randrange(0, cache.length[row] + 1) for _ in range(2)) for row in rows]
        return params | {"start": [low for low, _ in each], "stop": [high for _, high in each]}

    def evict(self) -> None:
        number, session = self.level()
        if self.rng.random() < 0.4:
            recent = self.rng.randrange(0, 8)
            params: dict[str, Any] = {"sinks": self.rng.randrange(0, 3), "recent": recent}
        else:
            params = self.range(session)
        if self.rng.random() < 0.4:
            params["close"] = self.rng.random() < 0.3
        params |= self.structural(session)
        self.emit(Call(number, "evict", params, delivery=self.delivery_of(params)))

    def shift(self) -> None:
        number, session = self.level()
        params = self.range(session)
        axes = session.cache.config.num_axes
        delta = [self.rng.randrange(-20, 21) for _ in range(axes)]
        params["delta"] = delta if axes > 1 else delta[0]
        params |= self.structural(session)
        self.emit(Call(number, "shift", params, delivery=self.delivery_of(params)))

    def attach(self) -> None:
        number, session = self.level()
        others = [
            each
            for each, other in self.service.sessions.items()
            if other.cache.config == session.cache.config
            and len(other.cache.rows) in (1, len(session.cache.rows))
        ]
        source = self.rng.choice(others)
        cache = self.service.sessions[source].cache
        stop = self.rng.randrange(0, min(min(cache.length), 12) + 1)
        start = self.rng.randrange(0, stop + 1)
        if not cache.is_level or not self.fits(session, stop - start):
            return
        for row in cache.rows:
            index = [token.index for token in row[start:stop]]
            if index and index != [*range(index[0], index[0] + len(index))]:
                return  # what becomes of holes is not said
        params: dict[str, Any] = {"source": source, "start": start, "stop": stop}
        if self.rng.random() < 0.4:
            axes = session.cache.config.num_axes
            position = [self.rng.randrange(0, 60) for _ in range(axes)]
            params["position"] = position if axes > 1 else position[0]
        params |= self.structural(session)
        self.emit(Call(number, "attach", params, delivery=self.delivery_of(params)))

    def compact(self) -> None:
        number, _ = self.pick()
        self.emit(Call(number, "compact", {"max_segments": self.rng.choice([1, 2, 8])}))

    # sessions

    def create(self) -> None:
        if len(self.service.sessions) >= MAX_SESSIONS:
            return
        params: dict[str, Any] = {"configuration": self.rng.choice(self.configs)}
        if self.rng.random() < 0.7:
            params["batch"] = self.rng.randrange(1, 4)
        if self.rng.random() < 0.7:
            params["max_tokens"] = self.rng.choice([16, MAX_LENGTH])
        if self.is_wire and self.rng.random() < 0.3:
            params["name"] = self.rng.choice("ab")
        if self.emit(Call(-1, "create", params, new=self.num_sessions)):
            self.num_sessions += 1

    def delete(self) -> None:
        number, _ = self.pick()
        self.emit(Call(number, "delete"))
        if self.is_wire and self.rng.random() < 0.3:
            self.emit(Call(number, "inspect"))

    def patch(self) -> None:
        number, _ = self.pick()
        params: dict[str, Any] = {}
        if self.rng.random() < 0.4:
            params["name"] = self.rng.choice("abc")
        if self.rng.random() < 0.2:
            params["frozen"] = True
        self.emit(Call(number, "patch", params))

    def inspect(self) -> None:
        number, _ = self.pick()
        self.emit(Call(number, "inspect"))

    def stale(self) -> None:
        """A second writer goes on from an old state: refused, also where the length is the same."""
        number, session = self.pick()
        states = self.seen.get(number)
        if not states or session.is_frozen:
            return
        length, generation = self.rng.choice(states)
        cache = session.cache
        if len(length) != len(cache.rows):
            return
        params: dict[str, Any] = {"expected_length": length, "expected_generation": generation}
        if self.rng.random() < 0.5 and self.fits(session, 1):
            layer = self.rng.choice(cache.layers)
            group = cache.config.group(layer)
            dtype = cache.config.dtype
            lead = (len(cache.rows), 1)
            inputs: dict[str, Numbers | Given] = {
                "q": self.numbers(*lead, group.heads, group.head_dim, dtype=dtype),
                "k": self.numbers(*lead, group.kv_heads, group.head_dim, dtype=dtype),
                "v": self.numbers(*lead, group.kv_heads, group.value_dim, dtype=dtype),
            }
            self.emit(Call(number, "step", params | {"layer": layer}, inputs))
        else:
            self.emit(Call(number, "truncate", params | {"drop": 0}))

    def resend(self) -> None:
        """The last guarded append of a session comes again, at once or after other operations."""
        number, session = self.pick()
        sent = [
            call
            for call in self.calls
            if call.session == number
            and call.operation in ("append", "step")
            and "expected_length" in call.params
        ]
        if not sent:
            return
        call = self.rng.choice(sent[-2:])
        if self.rng.random() < 0.4:
            axes = session.cache.config.num_axes
            whole = {"start": 0, "stop": 0, "delta": [0] * axes if axes > 1 else 0}
            self.emit(Call(number, "shift", whole))
        params = dict(call.params)
        if "expected_generation" in params:
            generations = [session.cache.generation, params["expected_generation"]]
            params["expected_generation"] = self.rng.choice(generations)
        inputs = dict(call.inputs)
        if self.rng.random() < 0.2:
            dtype = session.cache.config.dtype
            inputs["v"] = self.numbers(*call.tensors["v"].shape, dtype=dtype)
        self.emit(replace(call, params=params, inputs=inputs, delivery="once"))

    def bad(self) -> None:
        """A call that is refused for one reason."""
        number, session = self.pick()
        if session.is_frozen and self.rng.random() < 0.7:
            return
        from tests.kvcache_oracle import bad_calls

        call = bad_calls.make(self, number, session)
        if call is not None:
            self.emit(call)


def program(seed: int, *, is_wire: bool, num_calls: int = 40) -> list[Call]:
    """Return the program of a seed."""
    return Writer(seed, is_wire).write(num_calls)

"""The judge can fail: mistakes of a kind that implementations make are found by the programs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import pytest

from tests.kvcache_oracle.cache import ListCache
from tests.kvcache_oracle.calls import DTYPES, Answer, Call, Refused
from tests.kvcache_oracle.judge import check_program
from tests.kvcache_oracle.sessions import ListService


class ListDriver:
    """Lists in the place of a product, in the dtype of the session."""

    def __init__(self, service: ListService) -> None:
        self.service = service

    def call(self, call: Call) -> Answer:
        answer = self.service.call(call)
        if not answer.tensors:
            return answer
        dtype = DTYPES[self.service.sessions[call.session].cache.config.dtype]
        out_dtype = DTYPES["float32"] if call.params.get("out_dtype") else dtype
        tensors = {"out": answer.tensors["out"].to(out_dtype)}
        if "lse" in answer.tensors:
            tensors["lse"] = answer.tensors["lse"].to(DTYPES["float32"])
        return Answer(answer.members, tensors)

    def check_state(self, service: ListService) -> None:
        for number in service.sessions:
            assert self.service.document(number) == service.document(number)


@contextmanager
def list_driver(service: type[ListService] = ListService) -> Iterator[ListDriver]:
    yield ListDriver(service())


class KeepsDigests(ListService):
    """Repeats are recognised after a truncation, too."""

    def _structural(self, session):
        return Answer({"length": session.cache.length, "generation": session.cache.generation})


class IgnoresGeneration(ListService):
    def call(self, call: Call, observed: str = "") -> Answer:
        params = {name: each for name, each in call.params.items() if name != "expected_generation"}
        return super().call(replace(call, params=params), observed)


class Thaws(ListService):
    def _patch(self, session, call):
        answer = super()._patch(session, call)
        session.is_frozen = False
        return answer


def positions_do_not_close(self: ListCache, rows, start, stop, close: bool) -> None:
    before = {id(token): token.position for row in self.rows for token in row}
    tokens = [[*row] for row in self.rows]
    close_whole(self, rows, start, stop, close)
    for old, new in zip(tokens, self.rows, strict=True):
        for token in old[len(old) - len(new) :]:
            for kept in new:
                if kept.stored == token.stored:
                    kept.position = before[id(token)]


close_whole = ListCache.evict


def next_is_the_length(self: ListCache, row):
    return (len(row),) * self.config.num_axes, len(row)


def appends_in_part(self: ListCache, layer, rows, new, positions) -> None:
    for i, number in enumerate(rows):
        given = None if positions is None else [positions[i]]
        append_whole(self, layer, [number], [new[i]], given)


append_whole = ListCache.append


def fails_within(check: Callable[[int], None], num_programs: int) -> str:
    for seed in range(num_programs):
        try:
            check(seed)
        except AssertionError as error:
            return str(error)
    raise AssertionError("the mistake was not found")


def test_lists_agree_with_themselves() -> None:
    for seed in range(4):
        check_program(seed, list_driver, is_wire=True)


@pytest.mark.parametrize("service", [KeepsDigests, IgnoresGeneration, Thaws])
def test_mistakes_of_sessions_are_found(service: type[ListService]) -> None:
    drivers = partial(list_driver, service)
    report = fails_within(lambda seed: check_program(seed, drivers, is_wire=True), 40)
    assert "shortest program" in report


class WithOwnCaches(ListService):
    """Lists whose caches have a mistake: methods of `ListCache` by name."""

    mistakes: dict[str, Callable[..., object]]

    def call(self, call: Call, observed: str = "") -> Answer:
        whole = {name: getattr(ListCache, name) for name in self.mistakes}
        for name, mistake in self.mistakes.items():
            setattr(ListCache, name, mistake)
        try:
            return super().call(call, observed)
        finally:
            for name, method in whole.items():
                setattr(ListCache, name, method)


@pytest.mark.parametrize(
    ("name", "mistake"),
    [("evict", positions_do_not_close), ("next_numbers", next_is_the_length)],
)
def test_mistakes_of_caches_are_found(name: str, mistake: Callable[..., object]) -> None:
    service = type("Mistaken", (WithOwnCaches,), {"mistakes": {name: mistake}})
    drivers = partial(list_driver, service)
    report = fails_within(lambda seed: check_program(seed, drivers, is_wire=False), 40)
    calls = report.count("Call(")
    assert calls <= 8, report


def test_a_refusal_that_changes_something_is_found() -> None:
    class LosesALayer(ListService):
        def call(self, call: Call, observed: str = "") -> Answer:
            try:
                return super().call(call, observed)
            except Refused:
                session = self.sessions.get(call.session)
                if session is not None and session.cache.rows[0]:
                    session.cache.rows[0].pop()
                raise

    drivers = partial(list_driver, LosesALayer)
    fails_within(lambda seed: check_program(seed, drivers, is_wire=True), 40)

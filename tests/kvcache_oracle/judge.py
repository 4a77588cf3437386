"""Run a program on lists and on a driver, compare every answer, and shorten what fails."""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from tests.kvcache_oracle.calls import Answer, Call, Refused
from tests.kvcache_oracle.programs import program
from tests.kvcache_oracle.sessions import ListService

CALL_BOUND = {"float32": 1e-5, "bfloat16": 2e-2, "float16": 2.5e-3}
"""Relative error of one answer, which has few elements."""

PROGRAM_BOUND = {"float32": 2e-6, "bfloat16": 6e-3, "float16": 8e-4}
"""Relative error of all answers of many programs together; one rounding more than attention has."""


class Driver(Protocol):
    """What answers calls."""

    def call(self, call: Call) -> Answer:
        """Return the answer. Raises Refused."""
        ...

    def check_state(self, service: ListService) -> None:
        """Compare lengths and accounts with the lists."""
        ...


class Disagreement(AssertionError):
    """The driver and the lists differ."""


@dataclass
class Errors:
    """Sums of squares of differences and answers, by dtype."""

    sums: dict[str, tuple[float, float]] = field(default_factory=dict)

    def add(self, dtype: str, got: Tensor, expected: Tensor) -> None:
        difference, size = self.sums.get(dtype, (0.0, 0.0))
        self.sums[dtype] = (
            difference + float(((got.double() - expected) ** 2).sum()),
            size + float((expected**2).sum()),
        )

    def check(self) -> None:
        for dtype, (difference, size) in self.sums.items():
            if size:
                relative = math.sqrt(difference / size)
                assert relative <= PROGRAM_BOUND[dtype], (dtype, relative)


def run(calls: Sequence[Call], driver: Driver, errors: Errors | None = None) -> ListService:
    """Run a program. Raises Disagreement at the first call that differs."""
    lists = ListService()
    for number, call in enumerate(calls):
        known = {*lists.sessions, *lists.ended, -1}
        if not {call.session, call.params.get("source", -1)} <= known:
            continue  # a call before it was taken out of the program
        if {*range(call.new, call.new + call.params.get("count", 1))} & known - {-1}:
            continue  # its number was given to another session
        try:
            _compare(call, driver, lists, errors)
            if number % 5 == 0 or number == len(calls) - 1:
                driver.check_state(lists)
        except Refused:
            raise
        except Exception as error:
            raise Disagreement(f"call {number}, {call}: {type(error).__name__}: {error}") from error
    return lists


def _answer_of(answer: Callable[[], Answer]) -> Answer | Refused:
    try:
        return answer()
    except Refused as refused:
        return refused


def _compare(call: Call, driver: Driver, lists: ListService, errors: Errors | None) -> None:
    got = _answer_of(lambda: driver.call(call))
    observed = got.code if isinstance(got, Refused) else ""
    expected = _answer_of(lambda: lists.call(call, observed))
    if isinstance(got, Refused) or isinstance(expected, Refused):
        _compare_refusals(got, expected)
        return
    _compare_members(got.members, expected.members, "")
    assert {*got.tensors} == {*expected.tensors}, ({*got.tensors}, {*expected.tensors})
    if not expected.tensors:
        return
    session = lists.sessions[call.session]
    dtype = session.cache.config.dtype
    out_dtype = "float32" if call.params.get("out_dtype") else dtype
    out, reference = got.tensors["out"], expected.tensors["out"]
    assert out.dtype == getattr(torch, out_dtype), out.dtype
    check_close(out, reference, CALL_BOUND[dtype], "out")
    if errors is not None:
        errors.add(dtype, out, reference)
    if "lse" in expected.tensors:
        lse, lse_reference = got.tensors["lse"], expected.tensors["lse"]
        assert lse.dtype == torch.float32, lse.dtype
        is_seen = torch.isfinite(lse_reference)
        assert torch.equal(torch.isfinite(lse), is_seen), (lse, lse_reference)
        worst = (lse.double() - lse_reference)[is_seen].abs().amax().item() if is_seen.any() else 0
        assert worst <= 10 * CALL_BOUND[dtype], ("lse", worst)


def check_close(got: Tensor, expected: Tensor, bound: float, name: str) -> None:
    """Compare by the norm of each query's answer, with a floor for those that cancel out."""
    assert got.shape == expected.shape, (name, got.shape, expected.shape)
    assert torch.isfinite(got).all(), name
    difference = (got.double() - expected).flatten(-1).norm(dim=-1)
    width = math.sqrt(expected.shape[-1])
    allowed = bound * (expected.norm(dim=-1) + width)
    assert (difference <= allowed).all(), (name, (difference / allowed * bound).max().item())


def _compare_refusals(got: Answer | Refused, expected: Answer | Refused) -> None:
    assert isinstance(got, Refused), f"expected {expected}, got the answer {got.members}"
    assert isinstance(expected, Refused), f"expected {expected.members}, got {got}"
    codes = {expected.code, *expected.also}
    assert got.code in codes or (got.status == expected.status and "" in codes), (
        f"expected {expected}, got {got}"
    )
    if got.code == expected.code:
        assert got.status == expected.status, (got.status, expected.status)
        for name, value in expected.members.items():
            assert got.members.get(name) == value, (name, got.members.get(name), value)


def _compare_members(got: dict[str, Any], expected: dict[str, Any], path: str) -> None:
    for name, value in expected.items():
        assert name in got, f"{path}{name} is missing from {got}"
        if isinstance(value, dict):
            _compare_members(got[name], value, f"{path}{name}.")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for i, (a, b) in enumerate(zip(got[name], value, strict=True)):
                _compare_members(a, b, f"{path}{name}.{i}.")
        else:
            assert got[name] == value, f"{path}{name}: expected {value}, got {got[name]}"


def check_program(
    seed: int,
    drivers: Callable[[], AbstractContextManager[Driver]],
    *,
    is_wire: bool,
    num_calls: int = 40,
    errors: Errors | None = None,
) -> None:
    """Run the program of a seed. If it fails, raise AssertionError with its shortest form."""
    calls = program(seed, is_wire=is_wire, num_calls=num_calls)
    try:
        with drivers() as driver:
            run(calls, driver, errors)
    except Disagreement as first:
        shortest, error = shorten(calls, drivers, first)
        lines = "\n".join(f"  {call}" for call in shortest)
        raise AssertionError(f"seed {seed}: {error}\nshortest program:\n{lines}") from error


def shorten(
    calls: Sequence[Call], drivers: Callable[[], AbstractContextManager[Driver]], error: Exception
) -> tuple[list[Call], Exception]:
    """Take calls out as long as the program still fails."""
    calls = [*calls]
    size = max(len(calls) // 2, 1)
    while size:
        start = 0
        while start < len(calls):
            fewer = calls[:start] + calls[start + size :]
            try:
                with drivers() as driver:
                    run(fewer, driver)
                start += size
            except Disagreement as again:
                calls, error = fewer, again
        size //= 2
    return calls, error

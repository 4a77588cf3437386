"""Gives a method of a client the signature of the function that builds its call."""

import inspect
from collections.abc import Callable
from functools import update_wrapper
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


def described_by(build: Callable[..., Any], num_bound: int = 0) -> Callable[[F], F]:
    """Return a decorator that gives a method the name, the docstring and the arguments of `build`.

    The method itself gives the first `num_bound` arguments of `build`.

    `functools.wraps` does not suffice: `inspect.signature` and `help` remove the first argument of
    a bound method, and `build` has no `self`.
    """

    def describe(method: F) -> F:
        described: Any = update_wrapper(method, build)
        signature = inspect.signature(build)
        self_parameter = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
        described.__signature__ = signature.replace(
            parameters=[self_parameter, *list(signature.parameters.values())[num_bound:]],
            return_annotation=inspect.Signature.empty,  # `build` returns a call, not its answer
        )
        return method

    return describe

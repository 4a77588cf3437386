"""How a function that builds a call becomes a method of a client."""

import inspect
from collections.abc import Callable
from functools import update_wrapper
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


def described_by(build: Callable[..., Any]) -> Callable[[F], F]:
    """Return a decorator that gives a method the name, the docstring and the arguments of `build`.

    `functools.wraps` alone will not do: `inspect.signature` and `help` take a bound method's first
    argument away, and `build` has none to spare.
    """

    def describe(method: F) -> F:
        described: Any = update_wrapper(method, build)
        signature = inspect.signature(build)
        own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
        described.__signature__ = signature.replace(
            parameters=[own, *signature.parameters.values()],
            return_annotation=inspect.Signature.empty,  # the answer, where `build` has the call
        )
        return method

    return describe

"""Calls that compute no gradients: they refuse tensors that require them."""

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

import torch

from rope_core.calls import Call, tensor_fields
from rope_core.errors import ShapeError

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C", bound=Call)

REMEDY = (
    "call detach() or use torch.no_grad(); to train, use rotate for q and k, and torch's"
    " scaled_dot_product_attention"
)


def without_gradients(
    function: Callable[Concatenate[C, P], R],
) -> Callable[Concatenate[C, P], R]:
    """Run `function` of a call without gradients, after `refuse_gradients`.

    Results are inference tensors only where the caller is in torch's inference mode: autograd can
    save ordinary ones for other operators.
    """

    @wraps(function)
    def run(call: C, /, *args: P.args, **kwargs: P.kwargs) -> R:
        if not torch.is_grad_enabled():  # also in inference mode
            return function(call, *args, **kwargs)
        refuse_gradients(call, function.__name__)
        with torch.no_grad():
            return function(call, *args, **kwargs)

    return run


def refuse_gradients(call: Call, function: str, *differentiable: str) -> None:
    """Raise ShapeError if a tensor of a call requires gradients, except `differentiable` ones."""
    for name, tensor in tensor_fields(call).items():
        if tensor.requires_grad and name not in differentiable:
            expected = f"without gradients, which {function} does not compute for it ({REMEDY})"
            raise ShapeError(name, expected, "a tensor with requires_grad=True")

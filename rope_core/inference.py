"""Nothing of this library is differentiated."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


def inference(function: Callable[P, R]) -> Callable[P, R]:
    """Run `function` in torch's inference mode; at no cost where that is on already."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        if torch.is_inference_mode_enabled():
            return function(*args, **kwargs)
        with torch._C._InferenceMode(
            True
        ):  # what torch.inference_mode enters, without its own calls
            return function(*args, **kwargs)

    return run

"""Inference mode: the library computes no gradients."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


def inference(function: Callable[P, R]) -> Callable[P, R]:
    """Run `function` in torch's inference mode. Costs nothing if the mode is already on."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        if torch.is_inference_mode_enabled():
            return function(*args, **kwargs)
        # what torch.inference_mode enters, without its Python calls
        with torch._C._InferenceMode(True):
            return function(*args, **kwargs)

    return run

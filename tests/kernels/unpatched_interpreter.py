"""Run fused kernels in Triton's interpreter as it is; run as a script with TRITON_INTERPRET=1.

Prints a line of JSON: the error of each call, by kind.
"""

import json
import sys

import torch

from rope_core import Attend, Merge, RopeError, Rotate, attend, merge, rotate
from rope_core.config import RopeConfig


def main() -> None:
    q = torch.randn(1, 3, 2, 16)
    calls = {
        "rotate": (rotate, Rotate(q, None, RopeConfig.of(16))),
        "attend": (attend, Attend(q, q, q, None)),
        "merge": (merge, Merge(torch.stack((q, q)), torch.zeros(2, 1, 3, 2))),
    }
    errors = {}
    for kind, (function, call) in calls.items():
        try:
            function(call, backend="fused")
            errors[kind] = ""
        except RopeError as error:
            errors[kind] = type(error).__name__
    json.dump(errors, sys.stdout)


if __name__ == "__main__":
    main()

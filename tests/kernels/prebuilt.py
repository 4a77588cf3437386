"""Build kernels for a GPU that is not there, by calls of the library; a script."""

import json

import torch
from triton.runtime import driver

from rope_core import Merge, NoBackend, RopeConfig, Rotate, merge, rotate
from rope_core.builds import deferred_builds
from rope_core.errors import KernelNotBuilt
from rope_core.kernels.offline import OfflineDriver


def backend_of(call):
    """Return the backend that computes a call, or the error."""
    try:
        return call().backend
    except (KernelNotBuilt, NoBackend) as error:
        return f"{type(error).__name__}: {error}"


def rotation(width):
    x = torch.zeros(3, 32, width, dtype=torch.bfloat16)
    return lambda: rotate(Rotate(x, None, RopeConfig.of(width), torch.arange(3)), backend="fused")


def merging():
    return merge(Merge(torch.zeros(3, 5, 16), torch.zeros(3, 5)), backend="fused")


class Small(OfflineDriver):
    """A second GPU, without shared memory."""

    def __init__(self):
        super().__init__(90)
        self.utils.get_device_properties = lambda device: {"max_shared_mem": 0}

    def get_current_device(self):
        return 1


if __name__ == "__main__":
    driver.set_active(OfflineDriver(90))
    with deferred_builds(lambda key, build: build()):
        for call in (rotation(32), merging):
            print(json.dumps([backend_of(call), backend_of(call)]))
    driver.set_active(Small())
    print(json.dumps([backend_of(rotation(128)), backend_of(rotation(128))]))

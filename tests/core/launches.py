"""Count the operators of a call on "meta", a device whose tensors have no data."""

from collections import Counter

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

META = torch.device("meta")

HOST_READS = ("_local_scalar_dense", "item", "nonzero", "is_nonzero", "equal", "masked_select")

COPIES = ("_to_copy", "copy_")


class Launches(TorchDispatchMode):
    """Counts the operators that write memory, and fails on what makes the host wait.

    That is a read of what the device holds, and a copy from one device to another. An operator on
    tensors of two devices fails as it would there.
    """

    def __init__(self):
        super().__init__()
        self.counts = Counter()
        self.most_elements = 0

    @property
    def total(self):
        return self.counts.total()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        inputs = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        if name in HOST_READS:
            assert all(t.is_cpu for t in inputs), f"{name} reads the device"
        result = func(*args, **(kwargs or {}))
        outputs = [t for t in tree_leaves(result) if isinstance(t, torch.Tensor)]
        # an operator takes a number of the host, which is no copy
        counted = [t for t in (*inputs, *outputs) if t.ndim or not t.is_cpu or name in COPIES]
        devices = {t.device.type for t in counted}
        assert len(devices) <= 1, f"{name} of tensors on {devices}"
        if not _is_view(func) and not name.startswith(("empty", "_unsafe_view")):
            self.counts[name] += 1
            inputs_by_id = {id(t) for t in inputs}  # written in place
            new_sizes = [t.numel() for t in outputs if id(t) not in inputs_by_id]
            self.most_elements = max([self.most_elements, *new_sizes])
        return result


def _is_view(func):
    aliases = [returned.alias_info for returned in func._schema.returns]
    return any(alias is not None and not alias.is_write for alias in aliases)

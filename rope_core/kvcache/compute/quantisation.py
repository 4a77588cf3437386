"""Keys and values of 8 bits: float8_e4m3fn elements, and a scale of each token and head."""

import torch
from torch import Tensor

from rope_core.kvcache.compute.page_memory import PageMemory

ELEMENT_DTYPE = torch.float8_e4m3fn
"""1 bit of sign, 4 of the exponent, 3 of the mantissa; a NaN, no infinity."""

LARGEST = 448.0
"""The largest element."""


def quantise(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return elements `[..., D]` and scales `[...]` of float32 `x` `[..., D]`.

    A scale is the largest magnitude of its D numbers divided by 448, so it depends on no other
    token; it is 0 if all of them are 0. D numbers with a NaN or an infinity among them are all NaN
    when they are read.
    """
    scales = x.abs().amax(-1) / LARGEST
    divisors = scales.masked_fill(scales == 0, 1.0)
    # the division may give more where the scale is subnormal, and so has few digits
    elements = (x / divisors[..., None]).clamp_(-LARGEST, LARGEST)
    return elements.to(ELEMENT_DTYPE), scales


def dequantise(elements: Tensor, scales: Tensor) -> Tensor:
    """Return the float32 numbers of elements `[..., D]` with scales `[...]`."""
    return elements.float().mul_(scales[..., None])


class TokenSlots:
    """Slots of tokens in the pages of a layer that have scales, to read and to write."""

    def __init__(self, memory: PageMemory, slots: Tensor, layer: int) -> None:
        """Name slots.

        Args:
            memory: of the pages; it has scales.
            slots: int64 `[n]` on the device: page group * page_tokens + slot.
            layer: number of the layer in its group.
        """
        assert memory.scales is not None, "the pages have scales"
        self._keys, self._values = (x.view(torch.uint8) for x in (memory.keys, memory.values))
        self._scales = memory.scales
        page, slot = slots // memory.page_tokens + layer, slots % memory.page_tokens
        self._at = page, slice(None), slot

    def read(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return copies of the elements of k `[n, Hkv, D]` and v, and of both scales."""
        k, v = (x[self._at].view(ELEMENT_DTYPE) for x in (self._keys, self._values))
        page, _, slot = self._at
        return k, v, self._scales[page, :, :, slot]  # [n, 2, Hkv]

    def write(self, k: Tensor, v: Tensor, scales: Tensor) -> None:
        """Write what `read` returns."""
        page, _, slot = self._at
        self._keys[self._at] = k.view(torch.uint8)
        self._values[self._at] = v.view(torch.uint8)
        self._scales[page, :, :, slot] = scales

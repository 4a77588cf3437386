"""Masks: what transformers asks for, compared with what a session computes."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers.masking_utils import causal_mask_function

from rope_client.transformers.errors import UnsupportedModelCall


class SessionMask:
    """A mask as a rule and a padding at the left; its tensor is not computed.

    Args:
        q_length: number of queries, the last tokens of each row.
        kv_length: number of columns: tokens and padding.
        rule: the mask function of transformers: whether a query sees a key, by their columns.
        padding: first column of each row that is a token, int64 `[B]`; None: 0.
    """

    def __init__(
        self,
        q_length: int,
        kv_length: int,
        rule: Callable[..., Any],
        padding: npt.NDArray[np.int64] | None,
    ) -> None:
        self.q_length = q_length
        self.kv_length = kv_length
        self.padding = padding
        self._rule = rule
        self._compared: set[tuple[int | None, int | None]] = set()

    def check(self, attention: Mapping[str, Any]) -> None:
        """Check that a group of layers of the session is masked by the same rule.

        Raises:
            UnsupportedModelCall: a query would see other keys.
        """
        if attention.get("causal") is False:
            raise UnsupportedModelCall("sessions are causal, and the configuration is not")
        window, chunk = attention.get("window"), attention.get("chunk")
        if self._rule is causal_mask_function and window is None and chunk is None:
            return
        if (window, chunk) in self._compared:
            return
        if not self._is_same(window, chunk):
            raise UnsupportedModelCall(
                f"the model asks for another mask than causal attention with window {window} and "
                f"chunk {chunk}, which the session computes"
            )
        self._compared.add((window, chunk))

    def _is_same(self, window: int | None, chunk: int | None) -> bool:
        padding = [0] if self.padding is None else self.padding.tolist()
        start = torch.tensor(padding)[:, None, None, None]
        row, head = torch.arange(len(padding))[:, None, None, None], torch.tensor(0)
        q = torch.arange(self.kv_length - self.q_length, self.kv_length)[None, None, :, None]
        k = torch.arange(self.kv_length)[None, None, None, :]
        wanted = torch.as_tensor(self._rule(row, head, q, k)).cpu()
        computed = k <= q
        if window is not None:
            computed = computed & (q - k < window)
        if chunk is not None:
            computed = computed & ((q - start) // chunk == (k - start) // chunk)
        return not bool(((wanted != computed) & (q >= start) & (k >= start)).any())


def session_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int = 0,
    kv_offset: int = 0,
    mask_function: Callable[..., Any] = causal_mask_function,
    attention_mask: Tensor | None = None,
    use_vmap: bool = False,
    **_: Any,
) -> SessionMask:
    """Return the mask for layers of a session; transformers calls it for each kind of layer.

    Raises:
        UnsupportedModelCall: the mask is neither causal nor padding at the left.
    """
    if use_vmap:
        raise UnsupportedModelCall("the model changes the causal mask by a function of its own")
    if kv_offset != 0 or q_offset + q_length != kv_length:
        raise UnsupportedModelCall(
            f"queries must be the last of {kv_length} columns, got {q_length} from {q_offset} on"
        )
    if attention_mask is None:
        return SessionMask(q_length, kv_length, mask_function, None)
    if attention_mask.shape != (batch_size, kv_length):
        raise UnsupportedModelCall(
            f"attention_mask must be [{batch_size}, {kv_length}]: as long as the cache and the new "
            f"tokens, got {list(attention_mask.shape)}"
        )
    is_token = attention_mask.bool().cpu().numpy()
    padding = kv_length - is_token.sum(axis=1)
    if (is_token != (np.arange(kv_length) >= padding[:, None])).any():
        raise UnsupportedModelCall("attention_mask may hide tokens at the left of a row only")
    return SessionMask(q_length, kv_length, mask_function, padding if padding.any() else None)

"""A cache of transformers whose keys and values are in a session of the service."""

import math
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from rope_client.sessions.bound import Operations
from rope_client.sessions.session import Session, Stream
from rope_client.sync import Client
from rope_client.transformers.attention import UPDATE, LayerCall, Rotation, Update
from rope_client.transformers.errors import UnsupportedModelCall


class SessionLayer(CacheLayerMixin):
    """A layer of the cache; its tokens are in the session."""

    is_croppable = True
    supports_early_init = False

    def __init__(self, cache: "RopeSessionCache", index: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._cache = cache
        self._index = index

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Do nothing: the session has the memory."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Return the new keys and values, which the attention function sends to the service."""
        UPDATE.set(Update(self._cache, self._index, key_states, value_states))
        return key_states, value_states

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the number of columns after the next tokens, and the first column: 0."""
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        """Return the number of columns: tokens and padding."""
        return self._cache.columns[self._index]

    def get_max_length(self) -> int:
        """Return -1: no limit that the model must know."""
        return -1


class RopeSessionCache(Cache):
    """The cache of a model during `session_cache`; see there.

    `crop`, `reorder_cache`, `batch_select_indices`, `batch_repeat_interleave` and `reset` are
    those of transformers; `copy.deepcopy` is a fork. The session is made by the first tokens, with
    their number of rows.

    Args:
        client: of the service.
        configuration: arguments of `Client.session`.
        num_layers: of the model.
        sinks: attention sinks of the layers that have them, `[H]`.
        is_streamed: a WebSocket for the steps; else HTTP.
    """

    def __init__(
        self,
        client: Client,
        configuration: Mapping[str, Any],
        num_layers: int,
        *,
        sinks: Mapping[int, Tensor],
        is_streamed: bool = True,
    ) -> None:
        super().__init__(layers=[SessionLayer(self, index) for index in range(num_layers)])
        self.columns = [0] * num_layers
        """Tokens and padding of each layer."""
        self.session: Session | None = None
        """None before the first tokens."""
        self._client = client
        self._configuration = configuration
        self._sinks = sinks
        self._is_streamed = is_streamed
        self._rotation: tuple[Rotation | None, int] = None, 0
        self._operations: Operations | None = None
        self._attention: dict[int, Mapping[str, Any]] = {}
        self._padding = np.zeros(0, np.int64)
        self._forks: list[RopeSessionCache] = []

    def fork(self, count: int = 1) -> list["RopeSessionCache"]:
        """Return caches with the same tokens, which share memory; they end with this one."""
        forks = [
            RopeSessionCache(
                self._client,
                self._configuration,
                len(self.columns),
                sinks=self._sinks,
                is_streamed=self._is_streamed,
            )
            for _ in range(count)
        ]
        self._forks += forks
        if self.session is not None:
            for cache, session in zip(forks, self.session.fork(count), strict=True):
                cache._use(session)
                cache.columns, cache._padding = [*self.columns], self._padding
        return forks

    def __deepcopy__(self, _: dict[int, Any]) -> "RopeSessionCache":
        return self.fork()[0]

    def step(self, layer: int, q: Tensor, k: Tensor, v: Tensor, call: LayerCall) -> Tensor:
        """Append and attend: from `[B, heads, n, D]` to `[B, n, H, Dv]`.

        Raises:
            UnsupportedModelCall: the session computes other attention.
            RopeClientError: the service has failed; the cache is as before.
        """
        operations = self._ready(len(q))
        self._check(layer, q, call)
        columns, num_new = self.columns[layer], q.shape[2]
        padding = self._checked_padding(call.mask.padding, columns, len(q))
        if call.mask.kv_length != columns + num_new or call.mask.q_length != num_new:
            raise UnsupportedModelCall("the mask must be as long as the cache and the new tokens")
        tensors = [x.detach().transpose(1, 2) for x in (q, k, v)]
        positions = self._positions(call.rotation, columns, num_new).expand(len(q), -1).cpu()
        if padding.max() <= columns:
            answer = operations.step(layer, *tensors, positions=positions)
            out = _tensor(answer.out, q)
        else:
            is_token = torch.arange(columns, columns + num_new) >= torch.tensor(padding)[:, None]
            out = self._packed_step(operations, layer, tensors, positions, is_token)
        self._padding = padding
        self.columns[layer] += num_new
        return out

    @staticmethod
    def _packed_step(
        operations: Operations,
        layer: int,
        tensors: list[Tensor],
        positions: Tensor,
        is_token: Tensor,
    ) -> Tensor:
        """Step without the padding; `out` is 0 there."""
        q, _, v = tensors
        out = q.new_zeros((*q.shape[:3], v.shape[3]))
        sizes = is_token.sum(dim=1)
        rows = sizes.nonzero()[:, 0].tolist()
        if rows:
            answer = operations.step(
                layer,
                *(x[is_token.to(x.device)] for x in tensors),
                positions=positions[is_token],
                cu_seqlens=np.cumsum([0, *sizes[rows].tolist()]),
                rows=rows if len(rows) < len(sizes) else None,
            )
            out[is_token.to(out.device)] = _tensor(answer.out, q)
        return out

    def _ready(self, batch: int) -> Operations:
        """Return the operations of the session, which has `batch` rows."""
        if self._operations is None:
            self._use(self._created(batch))
        elif batch != len(self._padding) and not any(self.columns):
            self._reorder([0] * batch)
        assert self._operations is not None
        return self._operations

    def _created(self, batch: int) -> Session:
        """Return a new session, with the sinks of the model."""
        session = self._client.session(**self._configuration, batch=batch)
        if not self._sinks:
            return session
        # the document of the session says which layers each group has
        groups = session.state.configuration["groups"]
        session.delete()
        sinks: dict[str, Any] = {
            f"sinks.{index}": torch.stack([self._sinks[layer] for layer in group["layers"]]).float()
            for index, group in enumerate(groups)
        }
        return self._client.session(**self._configuration, **sinks, batch=batch)

    def _use(self, session: Session) -> None:
        groups = session.state.configuration["groups"]
        self._attention = {
            layer: {**group["attention"], "head_dim": group["head_dim"]}
            for group in groups
            for layer in group["layers"]
        }
        if len(self._attention) != len(self.columns):
            session.delete()
            raise UnsupportedModelCall(
                f"the model has {len(self.columns)} layers, and the service reads "
                f"{len(self._attention)} from its config"
            )
        self.session = session
        self._operations = session.stream() if self._is_streamed else session
        self._padding = np.zeros(len(session.length), np.int64)

    def _check(self, layer: int, q: Tensor, call: LayerCall) -> None:
        attention = self._attention[layer]
        call.mask.check(attention)
        default = q.shape[-1] ** -0.5
        scales = call.scale or default, attention.get("scale") or default
        if not math.isclose(*scales, rel_tol=1e-6):
            raise UnsupportedModelCall("the scale {} of the model is not {}".format(*scales))
        if (call.sinks is None) != (layer not in self._sinks):
            raise UnsupportedModelCall("the sinks of the layer are not where they were found")
        if call.softcap != attention.get("softcap"):
            raise UnsupportedModelCall(f"the softcap {call.softcap} is not that of the session")
        if call.sliding_window not in (None, attention.get("window")):
            raise UnsupportedModelCall(f"the window {call.sliding_window} is not the session's")

    def _positions(self, rotation: Rotation, columns: int, num_new: int) -> Tensor:
        """Return the positions of the new tokens, unless they are those of an earlier run."""
        last, at = self._rotation
        if rotation.positions.shape[1] != num_new or (rotation is last and at != columns):
            raise UnsupportedModelCall("the rotary embedding was not asked for these tokens")
        self._rotation = rotation, columns
        return rotation.positions

    def _checked_padding(
        self, padding: npt.NDArray[np.int64] | None, columns: int, batch: int
    ) -> npt.NDArray[np.int64]:
        """Return the padding of the rows, which must be that of the tokens before."""
        if len(self._padding) != batch:
            raise UnsupportedModelCall(f"the cache has {len(self._padding)} rows, got {batch}")
        padding = np.zeros(batch, np.int64) if padding is None else padding
        if (np.minimum(padding, columns) != np.minimum(self._padding, columns)).any():
            raise UnsupportedModelCall("attention_mask hides other tokens than before")
        return padding

    # the interface of caches of transformers

    def crop(self, tokens_to_remove: int) -> None:
        """Remove the last -`tokens_to_remove` columns."""
        if tokens_to_remove > 0:
            raise ValueError(f"crop takes a negative number of tokens, got {tokens_to_remove}")
        if self._operations is None or tokens_to_remove == 0:
            return
        columns = max(0, min(self.columns) + tokens_to_remove)
        lengths = np.maximum(columns - self._padding, 0)
        self._operations.truncate([int(length) for length in lengths])
        self.columns = [columns] * len(self.columns)

    def reset(self) -> None:
        """Remove all tokens."""
        if self._operations is not None:
            self._operations.truncate(0)
        self.columns = [0] * len(self.columns)
        self._padding = np.zeros_like(self._padding)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Make the rows those of `beam_idx`."""
        self._reorder(beam_idx.tolist())

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the rows of `indices`."""
        rows = torch.arange(len(self._padding))[indices.cpu()]
        self._reorder(rows.tolist())

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row."""
        self._reorder([row for row in range(len(self._padding)) for _ in range(repeats)])

    def _reorder(self, rows: list[int]) -> None:
        if self._operations is None or rows == [*range(len(self._padding))]:
            return
        self._operations.reorder(rows)
        self._padding = self._padding[rows]

    def close(self) -> None:
        """Delete the session, and the forks of this cache."""
        for fork in self._forks:
            fork.close()
        if isinstance(self._operations, Stream):
            self._operations.close()
        if self.session is not None:
            self.session.__exit__()
        self.session = self._operations = None


def _tensor(array: npt.NDArray[Any], like: Tensor) -> Tensor:
    if array.dtype == ml_dtypes.bfloat16:
        return torch.tensor(array.view(np.int16)).view(torch.bfloat16).to(like.device)
    return torch.tensor(array).to(like.device)

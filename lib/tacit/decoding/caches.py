"""Key-value caches that write a new token instead of copying all before it: one that grows, and one of fixed slots."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicLayer

ROOM = 64  # tokens by which a full buffer grows


class GrowingLayer(DynamicLayer):
    """transformers' dynamic layer, whose keys and values [B, heads, T, d] are views of larger buffers.

    For greedy decoding and sampling: rows can be selected (``batch_select_indices``), not repeated or reordered as
    beams.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.stores: list[Tensor] = []

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        """Append ``key_states`` and ``value_states`` [B, heads, new, d]; returns all keys and all values."""
        past = self.get_seq_length()
        if past == 0:
            self.lazy_initialization(key_states, value_states)
        end = past + key_states.shape[-2]
        if not self.stores or end > self.stores[0].shape[2]:
            shape = (*key_states.shape[:2], end + ROOM, key_states.shape[3])
            stores = [key_states.new_empty(shape), value_states.new_empty((*shape[:3], value_states.shape[3]))]
            if past:
                for store, old in zip(stores, (self.keys, self.values), strict=True):
                    store[:, :, :past] = old
            self.stores = stores
        for store, new in zip(self.stores, (key_states, value_states), strict=True):
            store[:, :, past:end] = new
        self.keys, self.values = (store[:, :, :end] for store in self.stores)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep only the rows ``indices`` [n] of the batch, and their buffers' room with them."""
        length = self.get_seq_length()
        self.stores = [store[indices] for store in self.stores]
        self.keys, self.values = (store[:, :, :length] for store in self.stores)

    def _refuse(self, *args, **kwargs) -> None:
        """Raises NotImplementedError: beams and assisted decoding would leave the buffers behind."""
        raise NotImplementedError("this cache knows one row a prompt: use transformers' DynamicCache")

    batch_repeat_interleave = reorder_cache = crop = _refuse


def make_cache(model: PreTrainedModel) -> Cache:
    """An empty cache for ``model``. Layers with full attention grow in buffers; others are transformers' own."""
    cache = DynamicCache(config=model.config)
    cache.layers = [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


class Place:
    """Where the next forward pass writes and how far it reads, for all layers of a cache of slots.

    When slots are filled, the slots ``rows`` [n] get a chunk of their prompts that begins at ``start``. In decoding,
    ``start`` is None: slot i of the first ``len(at)`` gets one token at its own position ``at[i]``, and all slots read
    up to ``reach``.
    """

    def __init__(self, *, slots: int, capacity: int, device: torch.device):
        self.slots, self.capacity = slots, capacity
        self.every = torch.arange(slots, device=device)
        self.rows, self.start = self.every, 0
        self.at, self.reach = torch.zeros(slots, dtype=torch.long, device=device), capacity


class SlotLayer(CacheLayerMixin):
    """Keys and values [slots, heads, capacity, d] that stay where they are, each slot at a position of its own.

    In transformers' static layer all rows have the same length. Here a slot begins at 0 without padding and can be
    filled anew while the others go on. What lies behind a slot's position is left from before, so decoding needs a
    mask. Full attention only.
    """

    is_sliding = False

    def __init__(self, place: Place):
        super().__init__()
        self.place = place

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate zeros [slots, heads, capacity, d], with heads, d and dtype of the states [n, heads, new, d].

        A mask hides zeros, but not all that uninitialised memory may hold: NaN times 0 is NaN.
        """
        slots, capacity = self.place.slots, self.place.capacity
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys = key_states.new_zeros((slots, key_states.shape[1], capacity, key_states.shape[3]))
        self.values = value_states.new_zeros((slots, value_states.shape[1], capacity, value_states.shape[3]))
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        """Write keys and values [n, heads, new, d] in place; returns those to attend to."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        place = self.place
        if place.start is None:
            n = len(place.at)
            self.keys[place.every[:n], :, place.at] = key_states[:, :, 0]
            self.values[place.every[:n], :, place.at] = value_states[:, :, 0]
            return self.keys[:n, :, : place.reach], self.values[:n, :, : place.reach]
        end = place.start + key_states.shape[2]
        self.keys[place.rows, :, place.start : end] = key_states
        self.values[place.rows, :, place.start : end] = value_states
        if place.start == 0:
            return key_states, value_states
        return self.keys[place.rows, :, :end], self.values[place.rows, :, :end]

    def move(self, rows: Tensor) -> None:
        """Copy the slots ``rows`` [n] to the first n places, in that order. What other places hold stays.

        Does nothing before the first ``update``. The caller moves the slots' positions.
        """
        if self.is_initialized:
            for store in (self.keys, self.values):
                store[: len(rows)] = store[rows]

    def get_seq_length(self) -> int:
        """Tokens before those of the next chunk."""
        return self.place.start or 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Keys of a chunk of ``query_length`` tokens, and where they begin."""
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        """Tokens that a slot can hold."""
        return self.place.capacity

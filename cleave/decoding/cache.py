"""A key-value cache that grows by blocks instead of by one concatenation per token.

transformers' DynamicCache copies every key and value at every step; at a few million parameters that copy is the larger part of a
step. Here the layers keep spare room and write in place. Layers of other kinds (sliding windows, linear attention) stay as they are.
"""

from typing import Any, cast

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer

BLOCK = 64  # tokens of spare room added when a layer is full


class GrowingLayer(DynamicLayer):  # type: ignore[no-untyped-call]  # transformers registers subclasses by an untyped hook
    """A full-attention layer over a buffer with spare room; `keys` and `values` are views (B, H, T, D) of its filled part."""

    is_sliding = False  # transformers wants every layer class to say so itself
    is_croppable = True

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)  # type: ignore[no-untyped-call]
        self._buffers: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append keys and values of shape (B, H, t, D); return all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        keys, values = self._reserve(key_states, value_states, end)
        keys[:, :, start:end] = key_states
        values[:, :, start:end] = value_states
        return self._show(end)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Keep, drop or repeat rows."""
        if self._buffers is None:
            return
        length = self.get_seq_length()
        keys, values = self._buffers
        self._buffers = keys.index_select(0, beam_idx.to(keys.device)), values.index_select(0, beam_idx.to(values.device))
        self._show(length)

    def reset(self) -> None:
        """Forget everything."""
        self._buffers = None
        super().reset()

    def _reserve(self, key_states: Tensor, value_states: Tensor, end: int) -> tuple[Tensor, Tensor]:
        if self._buffers is None or self._buffers[0].shape[2] < end:
            grown = _room(key_states, end + BLOCK), _room(value_states, end + BLOCK)
            if self._buffers is not None:
                for new, old in zip(grown, self._buffers, strict=True):
                    new[:, :, : old.shape[2]] = old
            self._buffers = grown
        return self._buffers

    def _show(self, length: int) -> tuple[Tensor, Tensor]:
        assert self._buffers is not None
        shown = self._buffers[0][:, :, :length], self._buffers[1][:, :, :length]
        self.keys, self.values = shown
        return shown


def growing_cache(model: PreTrainedModel) -> Cache:
    """An empty cache for `model` whose full-attention layers grow by blocks."""
    cache = DynamicCache(config=model.config)
    if cache.layer_class_to_replicate is DynamicLayer:
        cache.layer_class_to_replicate = GrowingLayer
    cache.layers = [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def attends_to_all(model: PreTrainedModel) -> bool:
    """Whether every layer attends to all places. Others count places, so that padding between a row's tokens would not go unnoticed."""
    cache = growing_cache(model)
    return all(isinstance(layer, GrowingLayer) for layer in cache.layers) and (
        bool(cache.layers) or cache.layer_class_to_replicate is GrowingLayer
    )


def select_rows(cache: Cache, rows: Tensor) -> None:
    """Make row i of the cache what row rows[i] was; repeats and omissions are allowed."""
    for layer in cache.layers:
        layer.reorder_cache(cast(torch.LongTensor, rows))


def _room(like: Tensor, length: int) -> Tensor:
    batch, heads, _, width = like.shape
    return torch.empty((batch, heads, length, width), dtype=like.dtype, device=like.device)

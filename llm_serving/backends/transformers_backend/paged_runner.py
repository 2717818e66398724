"""A `ModelRunner` over any Transformers model that keeps plain keys and values: batched and paged.

Transformers' own continuous batching knows one seed for all requests and no penalties, and takes only models
with pluggable attention. Here the model sees what `generate()` shows it, a left-padded batch and a cache, so
whatever can be generated with can be batched.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from llm_serving.engine.protocol import RunnerLimits, Step

BLOCK_SIZE = 16


@dataclass(frozen=True, slots=True)
class LayerShape:
    """Of one layer's keys and values, for one token: (heads, size of a head)."""

    keys: tuple[int, int]
    values: tuple[int, int]
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        numbers = self.keys[0] * self.keys[1] + self.values[0] * self.values[1]
        return numbers * int(self.dtype.itemsize)


def cache_name(model: Any) -> str:
    """What a model calls its cache: `cache` since Transformers 5.24, `past_key_values` before."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


def layer_shapes(cache: Any) -> list[LayerShape] | None:
    """What a model wrote into its cache, or None if that is not keys and values of each token alone."""
    if type(cache) is not DynamicCache or not cache.layers:
        return None
    shapes = []
    for layer in cache.layers:
        if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer) or not layer.is_initialized:
            return None
        keys, values = layer.keys, layer.values
        if keys.ndim != 4 or values.ndim != 4 or len(keys) != 1 or keys.shape[2] != values.shape[2]:
            return None
        shapes.append(
            LayerShape((keys.shape[1], keys.shape[3]), (values.shape[1], values.shape[3]), keys.dtype)
        )
    return shapes


@dataclass(slots=True)
class Batch:
    """Where the tokens of one forward pass are: N sequences, Q new tokens each, L in all, padded left."""

    size: int  # N
    num_new: int  # Q
    num_all: int  # L
    source: torch.Tensor  # int64 [num_real]: the new tokens that are no padding, in N * Q
    target: torch.Tensor  # int64 [num_real]: their slots
    slots: torch.Tensor  # int64 [N * L]: slots of all tokens; padding reads the last slot, which is zero


class PagedLayer(DynamicLayer):  # type: ignore[misc, unused-ignore]
    """One layer's cache: slots for the tokens of all sequences. `batch` tells which the model sees."""

    def __init__(self, shape: LayerShape, num_slots: int, device: torch.device) -> None:
        super().__init__()
        # One slot more, never written: what is masked must still be finite.
        self.keys = torch.zeros((num_slots + 1, *shape.keys), dtype=shape.dtype, device=device)
        self.values = torch.zeros((num_slots + 1, *shape.values), dtype=shape.dtype, device=device)
        self.dtype, self.device = shape.dtype, device
        self.is_initialized = True
        self.batch: Batch | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """New keys and values [N, heads, Q, size] in, those of all tokens [N, heads, L, size] out."""
        assert self.batch is not None
        return _exchange(self.keys, key_states, self.batch), _exchange(self.values, value_states, self.batch)

    def get_seq_length(self, *args: Any) -> int:
        return 0 if self.batch is None else self.batch.num_all - self.batch.num_new

    def get_mask_sizes(self, *args: Any) -> tuple[int, int]:
        return (0 if self.batch is None else self.batch.num_all), 0


def _exchange(pool: torch.Tensor, new: torch.Tensor, batch: Batch) -> torch.Tensor:
    heads, size = pool.shape[1:]
    pool[batch.target] = new.transpose(1, 2).reshape(-1, heads, size)[batch.source].to(pool.dtype)
    return pool[batch.slots].view(batch.size, batch.num_all, heads, size).transpose(1, 2)


class PagedRunner:
    """Runs a causal language model. See `ModelRunner`, with one difference: rows are equal to within float
    rounding, not bit for bit, in other company."""

    def __init__(
        self, model: Any, shapes: Sequence[LayerShape], limits: RunnerLimits, device: torch.device
    ) -> None:
        self.limits = limits
        self._model = model
        self._device = device
        num_slots = limits.num_blocks * limits.block_size
        self._layers = [PagedLayer(shape, num_slots, device) for shape in shapes]
        self._cache = Cache(layers=self._layers)
        self._cache_name = cache_name(model)
        accepted = inspect.signature(model.forward).parameters
        self._takes_positions = "position_ids" in accepted
        self._keeps_logits = "logits_to_keep" in accepted

    def run(self, step: Step) -> np.ndarray:
        """See `ModelRunner.run`: float32 logits [num_rows, vocab_size]."""
        logits = np.empty((len(step.logit_rows), self.limits.vocab_size), np.float32)
        owners = np.searchsorted(step.query_starts, step.logit_rows, side="right") - 1
        # How far before its sequence's end each wanted row stands; mostly it is the last.
        before_end = step.query_starts[owners + 1] - step.logit_rows
        kept = np.ones(
            len(step.query_starts) - 1, np.int64
        )  # last tokens of each sequence that hold its rows
        np.maximum.at(kept, owners, before_end)
        for sequences in _alike(np.diff(step.query_starts), kept):
            keep = int(kept[sequences].max())
            out = self._forward(step, sequences, keep)
            places = np.flatnonzero(np.isin(owners, sequences))
            index = np.searchsorted(sequences, owners[places])
            logits[places] = out[index, keep - before_end[places]]
        return logits

    def close(self) -> None:
        """Give the memory back. Safe to call twice."""
        if self._model is not None:
            self._model, self._layers, self._cache = None, [], None
            if self._device.type == "cuda":
                torch.cuda.empty_cache()

    def _forward(self, step: Step, sequences: np.ndarray, keep: int) -> np.ndarray:
        """Logits of the last `keep` tokens of each sequence, float32 [N, keep, vocab_size]."""
        starts = step.query_starts
        counts = starts[sequences + 1] - starts[sequences]
        lengths = step.positions[starts[sequences + 1] - 1] + 1
        num_new, num_all = int(counts.max()), int(lengths.max())
        # Positions by column, negative in the padding on the left.
        positions = np.arange(num_all)[None, :] - (num_all - lengths)[:, None]
        blocks = np.take_along_axis(
            step.block_tables[sequences].astype(np.int64), np.maximum(positions, 0) // BLOCK_SIZE, axis=1
        )
        padding_slot = self.limits.num_blocks * BLOCK_SIZE
        slots = np.where(positions >= 0, blocks * BLOCK_SIZE + positions % BLOCK_SIZE, padding_slot)
        is_real = np.arange(num_new)[None, :] >= (num_new - counts)[:, None]
        token_ids = np.zeros((len(sequences), num_new), np.int64)
        for i, sequence in enumerate(sequences):
            token_ids[i, num_new - counts[i] :] = step.token_ids[starts[sequence] : starts[sequence + 1]]
        batch = Batch(
            len(sequences),
            num_new,
            num_all,
            self._tensor(np.flatnonzero(is_real)),
            self._tensor(slots[:, num_all - num_new :][is_real]),
            self._tensor(slots.reshape(-1)),
        )
        for layer in self._layers:
            layer.batch = batch
        inputs: dict[str, Any] = {
            "input_ids": self._tensor(token_ids),
            "attention_mask": self._tensor((positions >= 0).astype(np.int64)),
        }
        if self._takes_positions:
            inputs["position_ids"] = self._tensor(np.maximum(positions[:, num_all - num_new :], 0))
        if self._keeps_logits:
            inputs["logits_to_keep"] = keep
        inputs[self._cache_name] = self._cache
        with torch.inference_mode():
            logits = self._model(**inputs, use_cache=True).logits[:, -keep:]
            result: np.ndarray = logits.float().cpu().numpy()
        return result

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._device)


def _alike(counts: np.ndarray, kept: np.ndarray) -> list[np.ndarray]:
    """Sequences by their numbers of new tokens and of those kept, so that padding at most doubles a batch."""
    # 1 → 0, 2 → 1, 3 and 4 → 2, 5 … 8 → 3
    classes = np.stack([np.frexp(numbers - 0.5)[1] for numbers in (counts, kept)], axis=1)
    return [np.flatnonzero((classes == each).all(axis=1)) for each in np.unique(classes, axis=0)]

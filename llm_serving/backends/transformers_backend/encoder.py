"""Embedding models and cross-encoders of Hugging Face Transformers on any torch device."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from llm_serving.backends.transformers_backend.loading import load_weights, torch_device
from llm_serving.checkpoints import Checkpoint, dequantize
from llm_serving.checkpoints.sentence_transformers import Dense, Pooling, PoolingMode, SentenceTransformers
from llm_serving.embeddings.encoder import EncoderInput
from llm_serving.native.cpu import cpu_budget

BATCH_TOKENS = 8192  # of one forward pass, padding included
_ACTIVATIONS = {
    "identity": torch.nn.Identity(),
    "tanh": torch.tanh,
    "gelu": torch.nn.functional.gelu,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
}


class TransformersEncoder:
    """See `Encoder`, with one difference: rows are equal to within float rounding in other company.

    `settings` say how rows come of hidden states; without them it is their mean, as sentence-transformers
    does. A model for sequence classification gives its logits instead.
    """

    def __init__(
        self, model: Any, device: torch.device, settings: SentenceTransformers | None, dense: list[Any]
    ) -> None:
        self.device = str(device)
        self._model = model
        self._device = device
        self._is_classifier = "SequenceClassification" in type(model).__name__
        self._pooling = (settings and settings.pooling) or Pooling(("mean",), None)
        self._normalize = settings is not None and settings.normalize
        self._dense = dense
        config = model.config.get_text_config()
        self._vocab_size = int(config.vocab_size)
        self._pad_id = config.pad_token_id or 0
        accepts = inspect.signature(model.forward).parameters
        self._has_segments = "token_type_ids" in accepts and getattr(config, "type_vocab_size", 0) > 1
        self.max_tokens = _max_tokens(model, (settings and settings.max_tokens) or 0)
        self.dimensions = self._width(int(config.hidden_size))

    def encode(self, batch: list[EncoderInput]) -> np.ndarray:
        """See `Encoder.encode`."""
        for item in batch:
            self._check(item)
        rows = np.empty((len(batch), self.dimensions), np.float32)
        for indices in _by_length([len(item.token_ids) for item in batch]):
            rows[indices] = self._forward([batch[i] for i in indices])
        return rows

    def close(self) -> None:
        self._model = None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _width(self, hidden: int) -> int:
        if self._is_classifier:
            return int(self._model.num_labels)
        return self._dense[-1][0].shape[0] if self._dense else hidden * len(self._pooling.modes)

    def _check(self, item: EncoderInput) -> None:
        ids = item.token_ids
        if not ids or len(ids) > self.max_tokens:
            raise ValueError(f"a text of {len(ids)} tokens; it must have 1 to {self.max_tokens}")
        if min(ids) < 0 or max(ids) >= self._vocab_size:
            raise ValueError(f"a token id outside 0 … {self._vocab_size - 1}")

    def _forward(self, batch: list[EncoderInput]) -> np.ndarray:
        width = max(len(item.token_ids) for item in batch)
        token_ids = np.full((len(batch), width), self._pad_id, np.int64)
        mask, segments = np.zeros_like(token_ids), np.zeros_like(token_ids)
        for i, item in enumerate(batch):
            token_ids[i, : len(item.token_ids)] = item.token_ids
            mask[i, : len(item.token_ids)] = 1
            if item.second_segment is not None:
                segments[i, item.second_segment : len(item.token_ids)] = 1
        inputs = {"input_ids": token_ids, "attention_mask": mask}
        if self._has_segments:
            inputs["token_type_ids"] = segments
        tensors = {name: torch.from_numpy(array).to(self._device) for name, array in inputs.items()}
        with torch.inference_mode():
            out = self._model(**tensors)
            rows = (
                out.logits.float() if self._is_classifier else self._embed(out[0], tensors["attention_mask"])
            )
            result: np.ndarray = rows.cpu().numpy()
        return result

    def _embed(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        hidden, mask = hidden.float(), mask.float()
        rows = torch.cat([_pool(hidden, mask, mode) for mode in self._pooling.modes], dim=1)
        for weight, bias, activation in self._dense:
            rows = activation(torch.nn.functional.linear(rows, weight, bias))
        return torch.nn.functional.normalize(rows) if self._normalize else rows


def load_encoder(
    checkpoint: Checkpoint, device: str = "auto", dtype: str = "auto", threads: int = 0
) -> TransformersEncoder:
    """Load an embedding model or a cross-encoder from an opened Hugging Face directory. Blocking.

    Raises: InvalidRequest (device, type), CheckpointError.
    """
    place = torch_device(device)
    names = checkpoint.metadata.get("architectures") or ()
    is_classifier = any("SequenceClassification" in str(name) for name in names)
    answers: tuple[int, ...] | None = checkpoint.extras.get("answers")
    auto_class = transformers.AutoModelForSequenceClassification if is_classifier else transformers.AutoModel
    if answers is not None:
        auto_class = transformers.AutoModelForCausalLM
    if place.type == "cpu":
        torch.set_num_threads(threads or cpu_budget().threads)
    model = load_weights(auto_class, Path(checkpoint.path), dtype, place)
    settings: SentenceTransformers | None = checkpoint.extras.get("sentence_transformers")
    if answers is not None:
        rows = model.get_output_embeddings().weight[list(answers)].detach().float()
        weight = rows[:1] - rows[1:] if len(rows) > 1 else rows
        limit = None if settings is None else settings.max_tokens
        read_at_last = SentenceTransformers(Pooling(("last",), None), max_tokens=limit)
        return TransformersEncoder(
            model.base_model, place, read_at_last, [(weight, None, _ACTIVATIONS["identity"])]
        )
    dense = [_dense(checkpoint, each, place) for each in settings.dense] if settings else []
    return TransformersEncoder(model, place, settings, dense)


def _dense(checkpoint: Checkpoint, dense: Dense, device: torch.device) -> tuple[Any, Any, Any]:
    """(weight, bias or None, activation)."""

    def read(name: str) -> torch.Tensor:
        return torch.from_numpy(dequantize(checkpoint.tensors[dense.prefix + name])).to(device)

    bias = read("linear.bias") if dense.bias else None
    return read("linear.weight"), bias, _ACTIVATIONS[dense.activation]


def _pool(hidden: torch.Tensor, mask: torch.Tensor, mode: PoolingMode) -> torch.Tensor:
    """Hidden states [N, L, H], padded right by `mask` [N, L], to [N, H]."""
    if mode == "cls":
        return hidden[:, 0]
    if mode == "last":
        return hidden[torch.arange(len(hidden), device=hidden.device), mask.sum(1).long() - 1]
    if mode == "max":
        return hidden.masked_fill(mask[:, :, None] == 0, -torch.inf).amax(1)
    weights = (
        mask * torch.arange(1, mask.shape[1] + 1, device=mask.device) if mode == "weighted_mean" else mask
    )
    sums = (hidden * weights[:, :, None]).sum(1)
    total = weights.sum(1, keepdim=True)
    return sums / (total.sqrt() if mode == "mean_sqrt_len" else total)


def _max_tokens(model: Any, asked: int) -> int:
    config = model.config.get_text_config()
    limit = getattr(config, "max_position_embeddings", 0) or 512
    for name, module in model.named_modules():
        # RoBERTa and its kin count positions from behind the padding's.
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            limit = module.num_embeddings - module.padding_idx - 1
    return min(asked or limit, limit)


def _by_length(lengths: list[int]) -> Iterator[list[int]]:
    """Indices in batches of similar lengths."""
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) + 1) * lengths[i] > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch

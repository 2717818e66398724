"""Encoder over the C++ plan: all tokens of a batch in one matrix, attention inside each text, pooling."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from llm_serving.checkpoints import Checkpoint, SentenceTransformers, dequantize
from llm_serving.embeddings.encoder import EncoderInput
from llm_serving.errors import CheckpointError
from llm_serving.native import ops
from llm_serving.native.core import load_core
from llm_serving.native.packed_cache import PackedCache
from llm_serving.native.plan import PlanBuilder, core_plan

STEP_TOKENS = 384  # what a layer works on stays in L2; a longer text gets a step of its own
TILE_TOKENS = 48  # of a text, from which on tiles of bfloat16 pay where the CPU has them


class NativeEncoder:
    """Owns weights and threads. One thread at a time calls it; results do not depend on the batch.

    Raises: CheckpointError when the checkpoint does not fit the plan.
    """

    def __init__(
        self,
        plan: ops.EncoderPlan,
        checkpoint: Checkpoint,
        *,
        threads: int = 1,
        isa: str = "auto",
        weight_format: str = "f32",
        packed: PackedCache | None = None,
    ) -> None:
        settings: SentenceTransformers | None = checkpoint.extras.get("sentence_transformers")
        self.max_tokens = min(plan.context, (settings and settings.max_tokens) or plan.context)
        self._plan = plan
        self._vocab_size = plan.vocab_size
        self._pad = plan.head and plan.head.pad
        self._core = core_plan(
            threads=threads,
            isa=isa,
            max_tokens=max(STEP_TOKENS, self.max_tokens),
            max_context=plan.context * plan.segments,
            is_encoder=True,
        )
        PlanBuilder(plan, checkpoint, self._core, weight_format, plan.context * plan.segments, packed).build()
        self._pooler = Pooler(plan, checkpoint)
        self.dimensions = self._pooler.dimensions
        self._kernels = [self._core.isa]  # of short texts, and of long ones
        if isa == "auto" and weight_format != "f32" and load_core().tile_set():
            self._kernels.append(load_core().tile_set())
        for name in self._kernels:
            self._core.use(name)  # so that memory for it is there
        kernels = " and ".join(self._kernels)
        self.device = f"cpu ({kernels}, {self._core.threads} threads, {weight_format})"
        self.weight_bytes: int = self._core.weight_bytes

    def encode(self, batch: list[EncoderInput]) -> np.ndarray:
        """See `Encoder.encode`."""
        for text in batch:
            self._check(text)
        rows = np.empty((len(batch), self.dimensions), np.float32)
        for kernels, group in self._groups(batch):
            self._core.use(kernels)
            for start, end in _steps([len(batch[row].token_ids) for row in group]):
                texts = [batch[row] for row in group[start:end]]
                lengths = [len(text.token_ids) for text in texts]
                hidden = self._run(texts, lengths)
                begin = 0
                for row, length in zip(group[start:end], lengths, strict=True):
                    rows[row] = self._pooler(hidden[begin : begin + self._num_read(batch[row].token_ids)])
                    begin += length
        return rows

    def close(self) -> None:
        """Drop the plan: its threads end and its memory goes back."""
        self._core = None

    def _groups(self, batch: list[EncoderInput]) -> Iterator[tuple[str, list[int]]]:
        """Kernels, and which texts they compute: by a text's own length, so that company changes no bits."""
        is_long = [len(self._kernels) > 1 and len(text.token_ids) >= TILE_TOKENS for text in batch]
        for wanted, kernels in enumerate(self._kernels):
            yield kernels, [row for row, long in enumerate(is_long) if long == wanted]

    def _num_read(self, token_ids: list[int]) -> int:
        """Of a text's tokens those before padding that its tokenizer put at the end: one at least."""
        count = len(token_ids)
        while self._pad is not None and count > 1 and token_ids[count - 1] == self._pad:
            count -= 1
        return count

    def _run(self, texts: Sequence[EncoderInput], lengths: list[int]) -> np.ndarray:
        token_ids = np.array([token for text in texts for token in text.token_ids], np.int32)
        positions = np.concatenate([self._positions(text) for text in texts])
        starts = np.zeros(len(texts) + 1, np.int32)
        np.cumsum(lengths, out=starts[1:])
        tables = np.zeros((len(texts), 0), np.int32)
        hidden: np.ndarray = self._core.run(token_ids, positions, starts, tables, np.zeros(0, np.int32), 0)
        return hidden

    def _positions(self, text: EncoderInput) -> np.ndarray:
        """Rows of the position table: those of the second segment stand after all of the first's."""
        positions = np.arange(len(text.token_ids), dtype=np.int32)
        if text.second_segment is not None and self._plan.segments > 1:
            positions[text.second_segment :] += self._plan.context
        return positions

    def _check(self, text: EncoderInput) -> None:
        length = len(text.token_ids)
        if not 0 < length <= self.max_tokens:
            raise ValueError(f"a text has {length} tokens; 1 to {self.max_tokens} are possible")
        if min(text.token_ids) < 0 or max(text.token_ids) >= self._vocab_size:
            raise ValueError(f"a token id is outside the model's 0 … {self._vocab_size - 1}")


class Pooler:
    """Hidden states of one text to its row: pooling, dense layers, classification head, length one."""

    def __init__(self, plan: ops.EncoderPlan, checkpoint: Checkpoint) -> None:
        settings: SentenceTransformers | None = checkpoint.extras.get("sentence_transformers")
        self._modes: tuple[str, ...] = (plan.pooling,)
        self._layers: list[tuple[np.ndarray, np.ndarray | None, str]] = []
        self._normalize = plan.head is None
        self._norm: tuple[np.ndarray, float] | None = None
        width = plan.hidden
        if plan.head is not None:
            self._add_head(plan.head, checkpoint)
        elif settings is not None:
            if settings.pooling is not None:
                if not settings.pooling.include_prompt:
                    raise CheckpointError("Pooling that leaves the prompt out is not supported.")
                self._modes = settings.pooling.modes
            self._normalize = settings.normalize
            width *= len(self._modes)
            for dense in settings.dense:
                self._add(f"{dense.prefix}linear", dense.activation, checkpoint)
        for name in plan.dense:
            self._add(name, "identity", checkpoint)
        self.dimensions = len(self._layers[-1][0]) if self._layers else width

    def __call__(self, hidden: np.ndarray) -> np.ndarray:
        """float32 [tokens, width] → [dimensions]. Text by text, because BLAS rounds batches by their size."""
        x = np.concatenate([_pool(hidden, mode) for mode in self._modes])
        for index, (weight, bias, activation) in enumerate(self._layers):
            x = weight @ x if bias is None else weight @ x + bias
            x = _activate(x, activation)
            if index == 0 and self._norm is not None:
                gain, epsilon = self._norm
                x = (x - x.mean()) / np.sqrt(x.var() + np.float32(epsilon)) * gain
        if self._normalize:
            x = x / max(np.sqrt(np.dot(x, x)), np.float32(1e-12))
        return x

    def _add_head(self, head: ops.Head, checkpoint: Checkpoint) -> None:
        if head.dense is not None:
            self._add(head.dense, head.activation, checkpoint)
        if head.norm is not None:
            self._norm = (dequantize(checkpoint.tensor(f"{head.norm}.weight")), head.epsilon)
        if head.rows:
            rows = dequantize(checkpoint.tensor(f"{head.classifier}.weight").rows(head.rows))
            self._layers.append((rows[:1] - rows[1:] if len(rows) > 1 else rows, None, "identity"))
        else:
            self._add(head.classifier, "identity", checkpoint)

    def _add(self, name: str, activation: str, checkpoint: Checkpoint) -> None:
        weight = checkpoint.tensor(f"{name}.weight")
        bias = checkpoint.tensors.get(f"{name}.bias")
        self._layers.append((dequantize(weight), None if bias is None else dequantize(bias), activation))


def _pool(hidden: np.ndarray, mode: str) -> np.ndarray:
    pooled: np.ndarray
    match mode:
        case "cls":
            pooled = hidden[0]
        case "last":
            pooled = hidden[-1]
        case "max":
            pooled = hidden.max(axis=0)
        case "mean":
            pooled = hidden.sum(axis=0) / np.float32(len(hidden))
        case "mean_sqrt_len":
            pooled = hidden.sum(axis=0) / np.sqrt(np.float32(len(hidden)))
        case "weighted_mean":
            weights = np.arange(1, len(hidden) + 1, dtype=np.float32)
            pooled = (hidden * weights[:, None]).sum(axis=0) / weights.sum()
        case _:
            raise CheckpointError(f"The pooling mode '{mode}' is not supported.")
    return pooled


def _activate(x: np.ndarray, activation: str) -> np.ndarray:
    y: np.ndarray = x
    match activation:
        case "tanh":
            y = np.tanh(x)
        case "relu":
            y = np.maximum(x, np.float32(0))
        case "gelu":
            y = np.array([v * 0.5 * (1 + math.erf(v / math.sqrt(2))) for v in x.tolist()], np.float32)
        case "sigmoid":
            y = 1 / (1 + np.exp(-x))
    return y


def _steps(lengths: list[int]) -> list[tuple[int, int]]:
    """Cut a batch into runs of at most STEP_TOKENS tokens, or of one text."""
    steps: list[tuple[int, int]] = []
    start, tokens = 0, 0
    for index, length in enumerate(lengths):
        if index > start and tokens + length > STEP_TOKENS:
            steps.append((start, index))
            start, tokens = index, 0
        tokens += length
    if lengths:
        steps.append((start, len(lengths)))
    return steps

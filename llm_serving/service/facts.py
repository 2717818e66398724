"""What a model's files say of it, for lists of models."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from llm_serving.checkpoints import Checkpoint, open_checkpoint
from llm_serving.errors import CheckpointError


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """As it lies on disk, whatever it becomes in memory."""

    format: str  # gguf or safetensors
    num_bytes: int  # of the files with its weights
    modified_s: float  # unix seconds; the newest of these files
    num_parameters: int
    quantization: (
        str  # the kind that most weights have, such as Q4_K or BF16; of packed ones the method: GPTQ
    )


@dataclass(frozen=True, slots=True)
class ModelProfile:
    """What is told of a model whether it is loaded or not."""

    context_length: int
    architecture: str = ""
    facts: ModelFacts | None = None  # if it has files
    dimensions: int | None = None  # of an embedding
    sees: bool = False  # images


def facts_of(checkpoint: Checkpoint) -> ModelFacts:
    """Reads no weights. What a model sees with is a part of it."""
    parts = [checkpoint, checkpoint.projector] if checkpoint.projector else [checkpoint]
    files = [file for part in parts for file in part.files]
    weights: Counter[str] = Counter()
    packing = checkpoint.metadata.get("quantization_config") or {}
    for tensor in (tensor for part in parts for tensor in part.tensors.values()):
        kind = tensor.kind if tensor.unpack is None else str(packing["quant_method"]).upper()
        weights[kind] += math.prod(tensor.shape)
    return ModelFacts(
        format="gguf" if checkpoint.format == "gguf" else "safetensors",
        num_bytes=sum(file.size for file in files),
        modified_s=max((file.mtime_ns for file in files), default=0) / 1e9,
        num_parameters=weights.total(),
        quantization=max(weights, key=lambda kind: weights[kind], default=""),
    )


def read_facts(path: Path) -> ModelFacts | None:
    """The same for a model that another library opens; None if ours cannot."""
    try:
        return facts_of(open_checkpoint(path))
    except CheckpointError:
        return None

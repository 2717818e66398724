"""Embedding and reranking models on our own engine."""

from __future__ import annotations

from llm_serving.architectures import describe_encoder
from llm_serving.checkpoints import Checkpoint
from llm_serving.errors import InvalidRequest
from llm_serving.native.cpu import cpu_budget
from llm_serving.native.encoder import NativeEncoder

# Weight format of each precision. Whoever knows of a proof for a model asks for q8; `auto` here is safe.
FORMATS = {"f32": "f32", "q8": "q8", "auto": "f32"}


def load(
    checkpoint: Checkpoint, precision: str = "auto", threads: int = 0, *, isa: str = "auto"
) -> NativeEncoder:
    """Load weights and start threads. Blocking.

    Raises: CheckpointError; InvalidRequest for an unknown precision.
    """
    if precision not in FORMATS:
        raise InvalidRequest(
            f"There is no precision '{precision}'; there are {', '.join(FORMATS)}.", "embedding_precision"
        )
    return NativeEncoder(
        describe_encoder(checkpoint),
        checkpoint,
        threads=threads or cpu_budget().threads,
        isa=isa,
        weight_format=FORMATS[precision],
    )

"""Embedding and reranking models on our own engine."""

from __future__ import annotations

from llm_serving.architectures import describe_encoder
from llm_serving.checkpoints import Checkpoint
from llm_serving.errors import InvalidRequest
from llm_serving.native.core import load_core
from llm_serving.native.cpu import cpu_budget
from llm_serving.native.encoder import NativeEncoder
from llm_serving.native.packed_cache import PackedCache

# Whoever knows of a proof for a model asks for q8; `auto` here is safe.
PRECISIONS = ("auto", "f32", "q8")


def load(
    checkpoint: Checkpoint,
    precision: str = "auto",
    threads: int = 0,
    packed: PackedCache | None = None,
    *,
    isa: str = "auto",
) -> NativeEncoder:
    """Load weights and start threads. Blocking.

    Raises: CheckpointError; InvalidRequest for an unknown precision.
    """
    if precision not in PRECISIONS:
        raise InvalidRequest(
            f"There is no precision '{precision}'; there are {', '.join(PRECISIONS)}.", "embedding_precision"
        )
    return NativeEncoder(
        describe_encoder(checkpoint),
        checkpoint,
        threads=threads or cpu_budget().threads,
        isa=isa,
        weight_format=_eight_bits(isa) if precision == "q8" else "f32",
        packed=packed,
    )


def _eight_bits(isa: str) -> str:
    """The fast 8-bit format: AVX2 gains nothing from activations in bytes, so it keeps 16 bits there."""
    return "s8" if load_core().isa(isa) in ("amx", "avx512", "avxvnni", "neon") else "q8"

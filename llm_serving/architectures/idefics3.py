"""Idefics 3 and SmolVLM: SigLIP's tiles, pixel shuffle, one projection, Llama (Laurençon et al. 2024)."""

from __future__ import annotations

from dataclasses import replace

from llm_serving.architectures import llama
from llm_serving.architectures.config_json import part, positive
from llm_serving.architectures.siglip import describe_siglip
from llm_serving.checkpoints import Checkpoint
from llm_serving.errors import CheckpointError
from llm_serving.native import ops
from llm_serving.native.vision_plan import VisionPlan

_VISION, _CONNECTOR = "model.vision_model.", "model.connector.modality_projection.proj"


def describe(checkpoint: Checkpoint) -> ops.ModelPlan:
    """Its text model. Raises: CheckpointError for one that is not Llama's, or not run."""
    return llama.describe(textpart(checkpoint))


def textpart(checkpoint: Checkpoint) -> Checkpoint:
    """The same with the text model's settings as its own."""
    text = part(checkpoint, "text_config")
    family = text.get("model_type", "llama")
    if family != "llama":
        raise CheckpointError(
            f"The text model of '{checkpoint.path}' is a '{family}'; the engine runs 'llama' there."
        )
    is_tied = (
        checkpoint.metadata.get("tie_word_embeddings", False) or "lm_head.weight" not in checkpoint.tensors
    )
    return replace(checkpoint, architecture=family, metadata={**text, "tie_word_embeddings": bool(is_tied)})


def describe_vision(checkpoint: Checkpoint, tile: int) -> tuple[VisionPlan, Checkpoint]:
    """The plan for tiles of so many pixels a side, and the checkpoint with tensors in the shapes it needs.

    Raises: CheckpointError when sizes do not fit each other, the tensors or the engine.
    """
    vision = replace(checkpoint, metadata=part(checkpoint, "vision_config"))
    tower = describe_siglip(vision, _VISION, positive(vision, "image_size", default=224))
    shuffle = positive(checkpoint, "scale_factor", default=2)
    if tile < tower.patch or tile // tower.patch % shuffle:  # pixels that no patch fills are left out
        raise CheckpointError(
            f"Tiles of {tile} pixels do not fit patches of {tower.patch}, {shuffle} a side to a row, "
            f"of '{checkpoint.path}'."
        )
    inputs = shuffle**2 * tower.plan.hidden
    width = positive(textpart(checkpoint), "hidden_size")
    rows = (tile // tower.patch // shuffle) ** 2
    connector = ops.EncoderPlan(
        hidden=width,
        context=rows,
        vocab_size=0,
        buffers={"x": width, "patches": inputs},
        operations=(
            ops.Given("patches"),
            ops.Quantize("patches"),
            ops.Linear((ops.Projection(f"{_CONNECTOR}.weight", "x", fine=True),)),
        ),
        pooling="",
    )
    plan = VisionPlan(tower.plan, connector, tile, tower.patch, shuffle, tower.columns)
    return plan, replace(vision, tensors=tower.tensors)

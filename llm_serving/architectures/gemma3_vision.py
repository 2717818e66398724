"""How Gemma 3 sees: SigLIP over the whole picture, means of neighbours, a norm, one projection.

The rows of a picture see each other all, also those that come (Gemma Team 2025).
"""

from __future__ import annotations

from dataclasses import replace
from math import isqrt

from llm_serving.architectures.config_json import before, number, part, positive
from llm_serving.architectures.siglip import describe_siglip
from llm_serving.checkpoints import Checkpoint
from llm_serving.errors import CheckpointError
from llm_serving.native import ops
from llm_serving.native.vision_plan import VisionPlan

# What a config.json leaves out where it is as in the smallest model that sees.
_TEXT = {
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 131072,
}
_VISION = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 16,
}
_PATCHES = "embeddings.patch_embedding.weight"  # the tower's own, wherever it hangs
_MOST_SOFT_TOKENS = 1024  # they are computed in one step


def text_part(checkpoint: Checkpoint) -> Checkpoint:
    """The same with the text model's settings as its own. Raises: CheckpointError for no Gemma 3."""
    text = part(checkpoint, "text_config")
    family = text.get("model_type", "gemma3_text")
    if family != "gemma3_text":
        raise CheckpointError(
            f"The text model of '{checkpoint.path}' is a '{family}'; the engine runs 'gemma3_text' there."
        )
    tensors = dict(checkpoint.tensors)
    if (head := tensors.get("language_model.lm_head.weight")) is not None:  # as it was written first
        tensors["lm_head.weight"] = head
    is_tied = checkpoint.metadata.get("tie_word_embeddings", True) or "lm_head.weight" not in tensors
    metadata = {**_TEXT, **text, "tie_word_embeddings": bool(is_tied)}
    return replace(checkpoint, architecture=family, metadata=metadata, tensors=tensors)


def num_soft_tokens(checkpoint: Checkpoint) -> int:
    """That a picture becomes; 0 without a vision part. Raises: CheckpointError for more than a step takes."""
    if checkpoint.metadata.get("vision_config") is None:
        return 0
    count = positive(checkpoint, "mm_tokens_per_image", default=256)
    if count > _MOST_SOFT_TOKENS or isqrt(count) ** 2 != count:
        raise CheckpointError(
            f"'mm_tokens_per_image' in the config.json of '{checkpoint.path}' is {count}; "
            f"a square of up to {_MOST_SOFT_TOKENS} is needed."
        )
    return count


def describe_vision(checkpoint: Checkpoint, tile: int) -> tuple[VisionPlan, Checkpoint]:
    """The plan for pictures of so many pixels a side, and the checkpoint with tensors in the shapes it needs.

    Raises: CheckpointError when sizes do not fit each other, the tensors or the engine.
    """
    vision = replace(checkpoint, metadata={**_VISION, **part(checkpoint, "vision_config")})
    size = positive(vision, "image_size")
    tower = describe_siglip(vision, before(checkpoint, _PATCHES), size)
    count = num_soft_tokens(checkpoint)
    patches, rows = size // tower.patch, isqrt(count)
    if tile != size or patches % rows:
        raise CheckpointError(
            f"Pictures of {tile} pixels in {patches} x {patches} patches do not become {rows} x {rows} rows; "
            f"the vision part of '{checkpoint.path}' is made for {size} pixels."
        )
    width = positive(text_part(checkpoint), "hidden_size")
    projector = before(checkpoint, "mm_input_projection_weight")
    hidden = tower.plan.hidden
    matrix = ops.Projection(
        f"{projector}mm_input_projection_weight", "x", fine=True, part=ops.Part(0, 1, transposed=True)
    )
    connector = ops.EncoderPlan(
        hidden=width,
        context=count,
        vocab_size=0,
        buffers={"x": width, "means": hidden},
        operations=(
            ops.Given("means"),
            ops.Quantize(
                "means", f"{projector}mm_soft_emb_norm.weight", number(vision, "layer_norm_eps", default=1e-6)
            ),
            ops.Linear((matrix,)),
        ),
        pooling="",
        norm_offset=0.0 if checkpoint.format == "gguf" else 1.0,
    )
    plan = VisionPlan(
        tower.plan,
        connector,
        tile,
        tower.patch,
        patches // rows,
        tower.columns,
        shuffles=False,
        by_place=False,
    )
    return plan, replace(vision, tensors=tower.tensors)

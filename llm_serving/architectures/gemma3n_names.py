"""What files call the parts that Gemma 3n has beside Gemma 4's."""

from __future__ import annotations

from dataclasses import dataclass

from llm_serving.architectures import config_json
from llm_serving.checkpoints import Checkpoint
from llm_serving.native import ops


@dataclass(frozen=True, slots=True)
class AltUpNames:
    """Whole tensor names; those of a layer contain `{i}`.

    What begins and ends streams are matrices with `{j}` in their names, or one tensor of all of them.
    """

    begin: str
    end: str
    router: str
    router_norm: str
    predict: str
    correct: str
    scale: str  # of what the layer's own input is gated by
    laurel_left: str
    laurel_right: str
    laurel_norm: str

    def stream(self, name: str, stream: int, streams: int, target: str) -> ops.Projection:
        """What `begin` or `end` is of a stream, of which the first has none."""
        part = None if "{j}" in name else ops.Part(stream - 1, streams - 1)
        return ops.Projection(name.format(j=stream - 1), target, part=part)


_GGUF = AltUpNames(
    begin="altup_proj.weight",
    end="altup_unembd_proj.weight",
    router="blk.{i}.altup_router.weight",
    router_norm="blk.{i}.altup_router_norm.weight",
    predict="blk.{i}.altup_predict_coef.weight",
    correct="blk.{i}.altup_correct_coef.weight",
    scale="blk.{i}.altup_correct_scale.weight",
    laurel_left="blk.{i}.laurel_l.weight",
    laurel_right="blk.{i}.laurel_r.weight",
    laurel_norm="blk.{i}.laurel_post_norm.weight",
)


def read_altup_names(checkpoint: Checkpoint) -> AltUpNames:
    """Raises: CheckpointError when a directory has no embedding."""
    if checkpoint.format == "gguf":
        return _GGUF
    prefix = config_json.prefix_of(checkpoint, "embed_tokens.weight")
    layer = prefix + "layers.{i}."
    return AltUpNames(
        begin=prefix + "altup_projections.{j}.weight",
        end=prefix + "altup_unembed_projections.{j}.weight",
        router=f"{layer}altup.modality_router.weight",
        router_norm=f"{layer}altup.router_norm.weight",
        predict=f"{layer}altup.prediction_coefs.weight",
        correct=f"{layer}altup.correction_coefs.weight",
        scale=f"{layer}altup.correct_output_scale",
        laurel_left=f"{layer}laurel.linear_left.weight",
        laurel_right=f"{layer}laurel.linear_right.weight",
        laurel_norm=f"{layer}laurel.post_laurel_norm.weight",
    )

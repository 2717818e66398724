"""What Gemma 2 and 3 share: norms before and behind each part, scaled words, gates of gelu, windows.

Directories hold what norms differ from one by; GGUF files hold the norms.
"""

from __future__ import annotations

from dataclasses import replace

from llm_serving.architectures import config_json, gguf_keys
from llm_serving.architectures.decoder import Kind, Scales, plan_of
from llm_serving.architectures.decoder_shape import GGUF_NORMS_BEHIND, Names, Shape, read_names
from llm_serving.checkpoints import Checkpoint
from llm_serving.native.ops import ModelPlan

ACTIVATION = ("hidden_activation", "gelu_pytorch_tanh")


def gemma_plan(checkpoint: Checkpoint, shape: Shape, kind: Kind, *, largest: int, window: int) -> ModelPlan:
    """A Gemma of this kind; `largest` and `window` as in `gemma_parts`.

    Raises: CheckpointError for a number that is none, or what the engine does not run.
    """
    names, norms_behind, scale, window = gemma_parts(checkpoint, shape, largest=largest, window=window)
    kind = replace(
        kind,
        scales=Scales(words=shape.hidden**0.5, scores=scale),
        norms_behind=norms_behind,
        norm_offset=0.0 if checkpoint.format == "gguf" else 1.0,
        window=window,
        activation="gelu_tanh",
    )
    return plan_of(checkpoint, names, shape, kind)


def gemma_parts(
    checkpoint: Checkpoint, shape: Shape, *, window: int, largest: int = 0
) -> tuple[Names, tuple[str, str], float, int]:
    """Names of tensors, of the norms behind attention and feed-forward, the scale of scores, the window.

    `largest` is how many layers the one model has that scales queries by its width, which GGUF files do not
    say; `window` is theirs where they do not say it. Raises: CheckpointError for a number that is none.
    """
    names = read_names(checkpoint)
    if checkpoint.format == "gguf":
        width: float = shape.hidden // shape.heads if shape.layers == largest else shape.head_dim
        window = gguf_keys.positive(checkpoint, "attention.sliding_window", window)
        return names, GGUF_NORMS_BEHIND, width**-0.5, window
    norms_behind = (names.ffn_norm, names.ffn_norm.replace("post_attention", "post_feedforward"))
    names = replace(names, ffn_norm=names.ffn_norm.replace("post_attention", "pre_feedforward"))
    width = config_json.number(checkpoint, "query_pre_attn_scalar", default=256.0)
    return names, norms_behind, width**-0.5, config_json.positive(checkpoint, "sliding_window", default=4096)

"""SmolLM3: llama without positions in every fourth layer (NoPE, Yang et al. 2025)."""

from __future__ import annotations

from llm_serving.architectures.config_json import num_layers, positive, require
from llm_serving.architectures.decoder import Kind, describe_decoder
from llm_serving.architectures.decoder_shape import Defaults
from llm_serving.architectures.gguf_keys import num_layers as num_gguf_layers
from llm_serving.architectures.layer_kinds import every
from llm_serving.checkpoints import Checkpoint
from llm_serving.errors import CheckpointError
from llm_serving.native.ops import ModelPlan

_DEFAULTS = Defaults(theta=2000000.0, epsilon=1e-6, context=32768)
_STILL_EVERY = 4  # layers; the last of four is told no positions


def describe(checkpoint: Checkpoint) -> ModelPlan:
    """Raises: CheckpointError for biases, sliding windows, or a list of layers that does not fit."""
    if checkpoint.format == "gguf":
        still = every(_STILL_EVERY, num_gguf_layers(checkpoint))
        return describe_decoder(checkpoint, Kind(interleaved=True, still=still), _DEFAULTS)
    for key in ("attention_bias", "mlp_bias", "use_sliding_window"):
        require(checkpoint, key, (False,), False)
    return describe_decoder(checkpoint, Kind(still=still_layers(checkpoint)), _DEFAULTS)


def still_layers(checkpoint: Checkpoint) -> frozenset[int]:
    """Layers of a directory that are told no positions. Raises: CheckpointError for another list."""
    layers = num_layers(checkpoint, "num_hidden_layers")
    rotates = checkpoint.metadata.get("no_rope_layers")  # in spite of its name: 1 where they rotate
    if not rotates:
        return every(positive(checkpoint, "no_rope_layer_interval", default=_STILL_EVERY), layers)
    if not isinstance(rotates, list) or len(rotates) < layers or not all(one in (0, 1) for one in rotates):
        raise CheckpointError(
            f"'no_rope_layers' in the config.json of '{checkpoint.path}' is no list of {layers} times 0 or 1."
        )
    return frozenset(i for i in range(layers) if not rotates[i])

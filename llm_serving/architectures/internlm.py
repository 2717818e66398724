"""InternLM 2, 2.5 and 3: llama in all but names (Shanghai AI Laboratory 2024)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from llm_serving.architectures.config_json import prefix_of, require
from llm_serving.architectures.decoder import Kind, describe_decoder, plan_of
from llm_serving.architectures.decoder_shape import Defaults, Names, read_shape
from llm_serving.checkpoints import Checkpoint
from llm_serving.native.ops import ModelPlan

_DEFAULTS = Defaults(context=32768)


def describe_2(checkpoint: Checkpoint) -> ModelPlan:
    """Directories have the inputs of attention in one matrix. Raises: CheckpointError for biases."""
    if checkpoint.format == "gguf":
        return describe_decoder(checkpoint, Kind(interleaved=True), _DEFAULTS)
    require(checkpoint, "bias", (False,), False)
    shape = read_shape(_within_what_was_trained(checkpoint), _DEFAULTS)
    return plan_of(checkpoint, _names_2(checkpoint), shape, Kind(grouped_inputs=True))


def describe_3(checkpoint: Checkpoint) -> ModelPlan:
    """A directory of InternLM 3 (GGUF files call it llama). Raises: CheckpointError for biases."""
    for key in ("attention_bias", "mlp_bias", "qkv_bias", "bias"):  # the last two in its own code
        require(checkpoint, key, (False,), False)
    return describe_decoder(_within_what_was_trained(checkpoint), Kind(), _DEFAULTS)


def _names_2(checkpoint: Checkpoint) -> Names:
    prefix = prefix_of(checkpoint, "tok_embeddings.weight")
    layer = prefix + "layers.{i}."
    return Names(
        words=f"{prefix}tok_embeddings",
        input_norm=f"{layer}attention_norm",
        output=f"{layer}attention.wo",
        ffn_norm=f"{layer}ffn_norm",
        gate=f"{layer}feed_forward.w1",
        up=f"{layer}feed_forward.w3",
        down=f"{layer}feed_forward.w2",
        norm=f"{prefix}norm",
        head="output",
        qkv=f"{layer}attention.wqkv",
    )


def _within_what_was_trained(checkpoint: Checkpoint) -> Checkpoint:
    """Without dynamic scaling, which begins behind the context of the model: no sequence gets there."""
    metadata: Any = checkpoint.metadata
    plain = dict(metadata)
    for key in ("rope_parameters", "rope_scaling"):
        given = metadata.get(key)
        if isinstance(given, dict) and given.get("rope_type", given.get("type")) == "dynamic":
            kept = {name: value for name, value in given.items() if name not in ("type", "factor")}
            plain[key] = {**kept, "rope_type": "default"}
    return replace(checkpoint, metadata=plain)

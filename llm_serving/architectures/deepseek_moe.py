"""DeepSeek MoE: experts scored by softmax, and one for all tokens (Dai et al. 2024). Files of Ling 1, too."""

from __future__ import annotations

from llm_serving.architectures import config_json, deepseek_gguf
from llm_serving.architectures.decoder import Kind
from llm_serving.architectures.decoder_shape import Defaults, read_names, read_shape
from llm_serving.architectures.shared_experts import expert_names, expert_sizes, mixture_plan, shared_names
from llm_serving.checkpoints import Checkpoint
from llm_serving.native.ops import ModelPlan

_DEFAULTS = Defaults(epsilon=1e-6)


def describe(checkpoint: Checkpoint) -> ModelPlan:
    """A directory of DeepSeek's first mixture, or a GGUF file of that or of Ling 1.

    Raises: CheckpointError for biases, other scores than by softmax, or a size that is missing.
    """
    names, shape = read_names(checkpoint), read_shape(checkpoint, _DEFAULTS)
    if checkpoint.format == "gguf":
        kind = Kind(interleaved=True, experts=deepseek_gguf.experts_of(checkpoint))
        return mixture_plan(checkpoint, names, shape, kind)
    config_json.require(checkpoint, "attention_bias", (False,), False)
    config_json.require(checkpoint, "moe_layer_freq", (1,), 1)
    config_json.require(checkpoint, "scoring_func", ("softmax",), "softmax")
    sizes = expert_sizes(checkpoint, "n_routed_experts", "moe_intermediate_size", False)
    kind = Kind(experts=(expert_names(names, shared_names(names)), sizes))
    return mixture_plan(checkpoint, names, shape, kind)

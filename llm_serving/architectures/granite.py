"""Granite 3: llama with scales for words, scores, parts and logits; small ones are mixtures of experts."""

from __future__ import annotations

from dataclasses import replace

from llm_serving.architectures import config_json, gguf_keys
from llm_serving.architectures.decoder import Kind, Scales, describe_decoder
from llm_serving.architectures.decoder_experts import GGUF_NAMES, gguf_sizes
from llm_serving.architectures.decoder_shape import Defaults, read_shape
from llm_serving.architectures.experts import ExpertNames, ExpertSizes, SharedNames
from llm_serving.architectures.shared_experts import GGUF_SHARED, with_shared
from llm_serving.checkpoints import Checkpoint
from llm_serving.errors import CheckpointError
from llm_serving.native.ops import ModelPlan

_DEFAULTS = Defaults(epsilon=1e-6)
_MOST = 1e6


def describe(checkpoint: Checkpoint) -> ModelPlan:
    """Raises: CheckpointError for biases, or a scale that is no positive number."""
    return describe_decoder(checkpoint, kind_of(checkpoint, False), _DEFAULTS)


def describe_minicpm(checkpoint: Checkpoint) -> ModelPlan:
    """A GGUF file of MiniCPM 1 to 4, with scales of its own where it names none (Hu et al. 2024).

    Raises: CheckpointError for a directory, which needs its own code, or a scale that is no positive number.
    """
    gguf_keys.require_gguf(checkpoint)
    shape = read_shape(checkpoint, _DEFAULTS)
    usual = {
        "embedding_scale": 12.0,
        "residual_scale": 1.4 / shape.layers**0.5,
        "logit_scale": shape.hidden / 256,
    }
    named = {f"{checkpoint.architecture}.{key}": value for key, value in usual.items()}
    return describe(replace(checkpoint, metadata={**named, **checkpoint.metadata}))


def describe_moe(checkpoint: Checkpoint) -> ModelPlan:
    """With an expert for all tokens, or none. Raises: CheckpointError for biases, or impossible numbers."""
    return describe_decoder(checkpoint, kind_of(checkpoint, True), _DEFAULTS)


def kind_of(checkpoint: Checkpoint, has_experts: bool) -> Kind:
    """Raises: CheckpointError for biases, or impossible numbers."""
    experts = _experts(checkpoint) if has_experts else None
    if checkpoint.format == "gguf":
        return Kind(interleaved=True, scales=believed(checkpoint, _gguf_scales(checkpoint)), experts=experts)
    for key in ("attention_bias", "mlp_bias"):
        config_json.require(checkpoint, key, (False,), False)
    return Kind(scales=believed(checkpoint, _config_scales(checkpoint)), experts=experts)


def _experts(checkpoint: Checkpoint) -> tuple[ExpertNames, ExpertSizes]:
    """Raises: CheckpointError for a size that is missing."""
    if checkpoint.format == "gguf":
        names, sizes = replace(GGUF_NAMES, shared=GGUF_SHARED), gguf_sizes(checkpoint)
        return names, with_shared(checkpoint, names, sizes, gguf_keys.num_layers(checkpoint))[0]
    layer = f"{config_json.prefix_of(checkpoint, 'embed_tokens.weight')}layers.{{i}}."
    mixture = f"{layer}block_sparse_moe."
    names = ExpertNames(
        router=f"{mixture}router.layer.weight",
        up=f"{mixture}input_linear.weight",
        down=f"{mixture}output_linear.weight",
        fused=True,
        shared=SharedNames(
            up=f"{layer}shared_mlp.input_linear.weight", down=f"{layer}shared_mlp.output_linear.weight"
        ),
    )
    sizes = ExpertSizes(
        count=config_json.positive(checkpoint, "num_local_experts"),
        used=config_json.positive(checkpoint, "num_experts_per_tok"),
        ffn=config_json.positive(checkpoint, "intermediate_size"),
        normalized=True,
    )
    layers = config_json.num_layers(checkpoint, "num_hidden_layers")
    return names, with_shared(checkpoint, names, sizes, layers)[0]


def believed(checkpoint: Checkpoint, scales: Scales) -> Scales:
    """Raises: CheckpointError for a scale that no model has, whose square may be no number."""
    for scale in (scales.words, scales.scores or 1.0, scales.parts, scales.logits):
        if not 1 / _MOST <= scale <= _MOST:
            raise CheckpointError(f"'{checkpoint.path}' has a scale of {scale:g}: no model does.")
    return scales


def _gguf_scales(checkpoint: Checkpoint) -> Scales:
    # Files write 0 for the usual scale of scores, that by the size of heads.
    is_given = bool(checkpoint.hyper("attention.scale"))
    return Scales(
        words=gguf_keys.number(checkpoint, "embedding_scale", 1.0),
        scores=gguf_keys.number(checkpoint, "attention.scale", 1.0) if is_given else None,
        parts=gguf_keys.number(checkpoint, "residual_scale", 1.0),
        logits=1 / gguf_keys.number(checkpoint, "logit_scale", 1.0),
    )


def _config_scales(checkpoint: Checkpoint) -> Scales:
    return Scales(
        words=config_json.number(checkpoint, "embedding_multiplier", default=1.0),
        scores=config_json.number(checkpoint, "attention_multiplier", default=1.0),
        parts=config_json.number(checkpoint, "residual_multiplier", default=1.0),
        logits=1 / config_json.number(checkpoint, "logits_scaling", default=1.0),
    )

"""What files of Nemotron-H say of its layers: each one's kind, the names of its tensors, its experts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from llm_serving.architectures import config_json, gguf_keys
from llm_serving.architectures.decoder_experts import gguf_sizes
from llm_serving.architectures.decoder_shape import Names, head_of, read_names
from llm_serving.architectures.experts import ExpertNames, ExpertSizes, SharedNames
from llm_serving.architectures.shared_experts import GGUF_CORRECTION, believed_scale
from llm_serving.checkpoints import Checkpoint
from llm_serving.errors import CheckpointError

MAMBA, ATTENTION, DENSE, MIXTURE = "mamba", "attention", "mlp", "moe"  # kinds of layers
_NEWER = {"linear_attention": MAMBA, "full_attention": ATTENTION}
_PATTERN = {"M": MAMBA, "*": ATTENTION, "-": DENSE, "E": MIXTURE}
_MOST_LAYERS = 1 << 12


def kinds_of(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Of each layer, but for those that draft tokens. Raises: CheckpointError for what is no list."""
    if checkpoint.format == "gguf":
        return _kinds_of_gguf(checkpoint)
    pattern: Any = checkpoint.metadata.get("hybrid_override_pattern")
    kinds: Any = checkpoint.metadata.get("layers_block_type", checkpoint.metadata.get("layer_types"))
    if kinds is None and isinstance(pattern, str) and 0 < len(pattern) <= _MOST_LAYERS:
        kinds = [_PATTERN.get(letter) for letter in pattern]
    if not isinstance(kinds, list) or not 0 < len(kinds) <= _MOST_LAYERS:
        raise CheckpointError(
            f"'layers_block_type' in the config.json of '{checkpoint.path}' is no list of layers."
        )
    named = tuple(_NEWER.get(kind, kind) if isinstance(kind, str) else "" for kind in kinds)
    if not set(named) <= set(_PATTERN.values()):
        raise CheckpointError(
            f"'layers_block_type' or 'hybrid_override_pattern' in the config.json of '{checkpoint.path}' has "
            f"layers that are none of {', '.join(_PATTERN.values())}."
        )
    return named


def _kinds_of_gguf(checkpoint: Checkpoint) -> tuple[str, ...]:
    layers = gguf_keys.num_layers(checkpoint)
    further: Any = checkpoint.hyper("nextn_predict_layers", 0)
    if not isinstance(further, int) or not 0 <= further < layers:
        raise gguf_keys.problem(checkpoint, "nextn_predict_layers", further, "a number of layers is needed")
    heads, widths = (
        _of_layers(checkpoint, key, layers) for key in ("attention.head_count_kv", "feed_forward_length")
    )

    def kind(index: int) -> str:
        if heads[index]:
            return ATTENTION
        if not widths[index]:
            return MAMBA
        return MIXTURE if f"blk.{index}.ffn_gate_inp.weight" in checkpoint.tensors else DENSE

    return tuple(kind(i) for i in range(layers - further))


def _of_layers(checkpoint: Checkpoint, key: str, layers: int) -> np.ndarray:
    """One number, and 0 where a layer has none of it. Raises: CheckpointError for anything else."""
    numbers = checkpoint.hyper(key)
    fits = isinstance(numbers, np.ndarray) and numbers.dtype.kind in "iu" and numbers.shape == (layers,)
    if not fits or len({*numbers.tolist()} - {0}) > 1 or numbers.min() < 0:
        raise gguf_keys.problem(checkpoint, key, numbers, f"{layers} times 0 or one number is needed")
    return np.asarray(numbers)


def names_of(checkpoint: Checkpoint) -> Names:
    """Raises: CheckpointError when a directory has no embedding."""
    if checkpoint.format == "gguf":
        return read_names(checkpoint)
    prefix = config_json.prefix_of(checkpoint, "embeddings.weight")
    layer = f"{prefix}layers.{{i}}."
    mixer = f"{layer}mixer."
    return Names(
        words=f"{prefix}embeddings",
        input_norm=f"{layer}norm",
        query=f"{mixer}q_proj",
        key=f"{mixer}k_proj",
        value=f"{mixer}v_proj",
        query_norm="",
        key_norm="",
        output=f"{mixer}o_proj",
        ffn_norm="",
        gate="",
        up=f"{mixer}up_proj",
        down=f"{mixer}down_proj",
        norm=f"{prefix}norm_f",
        head=head_of(checkpoint) or "lm_head",
        qkv="",
        gate_up="",
    )


def experts_of(checkpoint: Checkpoint, names: Names) -> tuple[ExpertNames, ExpertSizes]:
    """Sigmoids choose, corrected; nothing is gated. Raises: CheckpointError for groups, or missing sizes."""
    if checkpoint.format == "gguf":
        if checkpoint.hyper("expert_group_count", 1) not in (0, 1):
            groups = checkpoint.hyper("expert_group_count")
            raise gguf_keys.problem(
                checkpoint, "expert_group_count", groups, "experts in groups are not supported"
            )
        layer = "blk.{i}.ffn_"
        shared = SharedNames(up=f"{layer}up_shexp.weight", down=f"{layer}down_shexp.weight")
        experts = ExpertNames(
            router=f"{layer}gate_inp.weight",
            up=f"{layer}up_exps.weight",
            down=f"{layer}down_exps.weight",
            correction=GGUF_CORRECTION,
            shared=shared,
        )
        is_normalized = bool(checkpoint.hyper("expert_weights_norm", False))
        sizes = gguf_sizes(checkpoint, ffn="expert_feed_forward_length", normalized=is_normalized)
        scale = gguf_keys.number(checkpoint, "expert_weights_scale", 1.0)
        width = gguf_keys.positive(checkpoint, "expert_shared_feed_forward_length")
    else:
        experts, sizes = _experts_of_config(checkpoint, names.up.removesuffix("up_proj"))
        scale = config_json.number(checkpoint, "routed_scaling_factor", default=1.0)
        width = config_json.positive(checkpoint, "moe_shared_expert_intermediate_size")
    for name, size in (("expert", sizes.ffn), ("shared expert", width)):
        if size % 32:
            raise CheckpointError(f"The {name} of '{checkpoint.path}' is {size} wide; 32 must divide that.")
    scale = believed_scale(checkpoint, scale)
    return experts, replace(sizes, activation="relu2", scores="sigmoid", scale=scale, shared=width)


def _experts_of_config(checkpoint: Checkpoint, mixer: str) -> tuple[ExpertNames, ExpertSizes]:
    """Directories have each expert's matrices, or all in two tensors."""
    config_json.require(checkpoint, "n_group", (1, None), 1)
    config_json.require(checkpoint, "norm_topk_prob", (True, False), True)
    together = any(name.endswith(".mixer.experts.up_proj") for name in checkpoint.tensors)
    one = f"{mixer}experts." if together else f"{mixer}experts.{{e}}."
    end = "" if together else ".weight"
    shared = f"{mixer}shared_experts."
    experts = ExpertNames(
        router=f"{mixer}gate.weight",
        up=f"{one}up_proj{end}",
        down=f"{one}down_proj{end}",
        correction=f"{mixer}gate.e_score_correction_bias",
        shared=SharedNames(up=f"{shared}up_proj.weight", down=f"{shared}down_proj.weight"),
    )
    sizes = ExpertSizes(
        count=config_json.positive(checkpoint, "n_routed_experts"),
        used=config_json.positive(checkpoint, "num_experts_per_tok"),
        ffn=config_json.positive(checkpoint, "moe_intermediate_size"),
        normalized=bool(checkpoint.metadata.get("norm_topk_prob", True)),
    )
    return experts, sizes

"""The vision transformer of SigLIP (Zhai et al. 2023): patches, learned positions, norms before each part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from llm_serving.architectures.config_json import number, positive, require
from llm_serving.architectures.padded import GROUP, Padded
from llm_serving.checkpoints import Checkpoint, Tensor
from llm_serving.errors import CheckpointError
from llm_serving.native import ops


@dataclass(frozen=True, slots=True)
class Tower:
    """A vision transformer's plan, and tensors in the shapes that it needs, by name."""

    plan: ops.EncoderPlan
    tensors: Mapping[str, Tensor]
    patch: int  # pixels a side
    columns: int  # of the patch matrix


def describe_siglip(checkpoint: Checkpoint, prefix: str, image_size: int) -> Tower:
    """`metadata` is the vision part's; tensors begin with `prefix`.

    Raises: CheckpointError when a size is missing or not one that the engine runs.
    """
    require(checkpoint, "hidden_act", ("gelu_pytorch_tanh",), "gelu_pytorch_tanh")
    require(checkpoint, "num_channels", (3,), 3)
    hidden = positive(checkpoint, "hidden_size", default=1152)
    heads = positive(checkpoint, "num_attention_heads", default=16)
    ffn = positive(checkpoint, "intermediate_size", default=3072)
    patch = positive(checkpoint, "patch_size", default=32)
    layers = positive(checkpoint, "num_hidden_layers", default=12)
    epsilon = number(checkpoint, "layer_norm_eps", default=1e-6)
    if layers > len(checkpoint.tensors):
        raise CheckpointError(f"'{checkpoint.path}' has no {layers} layers of a vision transformer.")
    if hidden % heads or (hidden // heads) % 8 or hidden % GROUP:
        raise CheckpointError(
            f"{heads} heads over {hidden} dimensions of the vision part of '{checkpoint.path}' is a shape "
            "the engine does not run."
        )
    positions = (image_size // patch) ** 2
    if not positions:
        raise CheckpointError(f"Patches of '{checkpoint.path}' have {patch} pixels, its images {image_size}.")
    shapes = Padded(checkpoint)
    embedding = f"{prefix}embeddings.patch_embedding.weight"
    columns = shapes.as_matrix(embedding)
    wide = 0
    for i in range(layers):
        mlp = f"{prefix}encoder.layers.{i}.mlp"
        wide = shapes.rows(f"{mlp}.fc1.weight", ffn)
        shapes.rows(f"{mlp}.fc1.bias", ffn)
        shapes.columns(f"{mlp}.fc2.weight", ffn)
    plan = ops.EncoderPlan(
        hidden=hidden,
        context=positions,
        vocab_size=0,
        buffers={"x": hidden, "patches": columns, "qkv": 3 * hidden, "attention": hidden, "up": wide},
        operations=(
            ops.Given("patches"),
            ops.Quantize("patches"),
            ops.Linear((_linear(f"{prefix}embeddings.patch_embedding", "x", fine=True),)),
            ops.AddPositions(f"{prefix}embeddings.position_embedding.weight", "x", positions),
            *(
                op
                for i in range(layers)
                for op in _layer(f"{prefix}encoder.layers.{i}.", hidden, heads, epsilon)
            ),
            _norm(f"{prefix}post_layernorm", epsilon, keep=True),
        ),
        pooling="",
    )
    return Tower(plan, shapes.tensors, patch, columns)


def _layer(prefix: str, hidden: int, heads: int, epsilon: float) -> tuple[ops.Operation, ...]:
    own = f"{prefix}self_attn."
    return (
        _norm(f"{prefix}layer_norm1", epsilon),
        ops.Linear(
            (
                _linear(f"{own}q_proj", "qkv"),
                _linear(f"{own}k_proj", "qkv", hidden),
                _linear(f"{own}v_proj", "qkv", 2 * hidden),
            )
        ),
        ops.EncoderAttention("qkv", "attention", heads, heads, (hidden // heads) ** -0.5),
        ops.Quantize("attention"),
        ops.Linear((_linear(f"{own}out_proj", "x"),), accumulate=True),
        _norm(f"{prefix}layer_norm2", epsilon),
        ops.Linear((_linear(f"{prefix}mlp.fc1", "up"),)),
        ops.Gelu("up", tanh=True),
        ops.Linear((_linear(f"{prefix}mlp.fc2", "x"),), accumulate=True),
    )


def _norm(name: str, epsilon: float, keep: bool = False) -> ops.Quantize:
    return ops.Quantize("x", f"{name}.weight", epsilon, True, f"{name}.bias", keep=keep)


def _linear(name: str, target: str, offset: int = 0, fine: bool = False) -> ops.Projection:
    return ops.Projection(f"{name}.weight", target, offset, f"{name}.bias", fine=fine)

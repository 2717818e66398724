"""BitNet b1.58: llama with norms of what attention gives and of gated products (Ma et al. 2025)."""

from __future__ import annotations

from dataclasses import replace

from llm_serving.architectures.config_json import require
from llm_serving.architectures.decoder import Kind, plan_of
from llm_serving.architectures.decoder_shape import Defaults, Names, Shape, read_names, read_shape
from llm_serving.checkpoints import Checkpoint
from llm_serving.errors import CheckpointError
from llm_serving.native import ops

_ACTIVATIONS = ("relu2", "silu")  # the first models were trained with the second


def describe(checkpoint: Checkpoint) -> ops.ModelPlan:
    """A directory as `transformers` has it, or a GGUF file, whose gates are silu as in llama.cpp.

    Raises: CheckpointError for biases, for directories whose weights are to be made ternary when they are
    loaded, and for factors of matrices that lie apart.
    """
    names, activation, theta = read_names(checkpoint), "silu", 10000.0
    if checkpoint.format == "gguf":
        apart = next((name for name in checkpoint.tensors if name.endswith(".scale")), None)
        if apart is not None:
            raise CheckpointError(f"Tensor '{apart}' of '{checkpoint.path}' is not read.")
        norms = "blk.{i}.attn_sub_norm", "blk.{i}.ffn_sub_norm"
    else:
        require(checkpoint, "attention_bias", (False,), False)
        require(checkpoint, "weight_bits", (None,), None)  # of the first models' own code
        require(checkpoint, "hidden_act", _ACTIVATIONS, _ACTIVATIONS[0])
        theta = 500000.0
        activation = str(checkpoint.metadata.get("hidden_act", _ACTIVATIONS[0]))
        of_attention = names.output.replace("o_proj", "attn_sub_norm")
        norms = of_attention, names.down.replace("down_proj", "ffn_sub_norm")
    shape = read_shape(checkpoint, Defaults(theta=theta, activation=("hidden_act", activation)))

    def own_layer(index: int) -> tuple[ops.Operation, ...]:
        return _layer(index, names, norms, shape, activation)

    plan = plan_of(checkpoint, names, shape, Kind(gated=False), own_layer)
    # Gates, and what they open, in buffers of their own; that of logits is the last.
    return replace(plan, buffers={"up": shape.ffn, **plan.buffers})


def _layer(
    index: int, names: Names, norms: tuple[str, str], shape: Shape, activation: str
) -> tuple[ops.Operation, ...]:
    def weight(name: str) -> str:
        return f"{name.format(i=index)}.weight"

    return (
        ops.Quantize("x", weight(names.input_norm), shape.epsilon),
        ops.Linear(
            (
                ops.Projection(weight(names.query), "qkv"),
                ops.Projection(weight(names.key), "qkv", shape.queries),
                ops.Projection(weight(names.value), "qkv", shape.queries + shape.keys),
            )
        ),
        ops.RopeStore("qkv", index),
        ops.Attention("qkv", "attention", index, shape.head_dim**-0.5),
        ops.Quantize("attention", weight(norms[0]), shape.epsilon),
        ops.Linear((ops.Projection(weight(names.output), "x"),), accumulate=True),
        ops.Quantize("x", weight(names.ffn_norm), shape.epsilon),
        ops.Linear(
            (ops.Projection(weight(names.gate), "gate_up"), ops.Projection(weight(names.up), "up")),
        ),
        ops.OutputGate(
            "up",
            "gate_up",
            activation=activation,
            weight=weight(norms[1]),
            head_dim=shape.ffn,
            epsilon=shape.epsilon,
            gate_first=True,
        ),
        ops.Linear((ops.Projection(weight(names.down), "x"),), accumulate=True),
    )

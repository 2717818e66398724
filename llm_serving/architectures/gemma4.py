"""Gemma 4: two kinds of layers with heads of their own, keys that layers share, inputs for each layer beside
the words, and in one model experts beside each feed-forward part (Gemma Team 2026). How it sees is in
`gemma4_vision.py`.
"""

from __future__ import annotations

from dataclasses import replace

from llm_serving.architectures import config_json
from llm_serving.architectures.experts import expert_buffers, expert_slots
from llm_serving.architectures.gemma4_layer import layer
from llm_serving.architectures.gemma4_names import Names, read_names
from llm_serving.architectures.gemma4_shape import Gemma4Shape, read_shape
from llm_serving.architectures.gemma4_vision import num_rows_of_a_span
from llm_serving.checkpoints import Checkpoint
from llm_serving.native import ops

_TEXT_KINDS = ("gemma4_text", "gemma4_unified_text")


def describe(checkpoint: Checkpoint) -> ops.ModelPlan:
    """The text model; what hears in the same files is left alone.

    Raises: CheckpointError for a size that is missing, or anything that the engine does not run.
    """
    span = num_rows_of_a_span(checkpoint)
    checkpoint = text_part(checkpoint)
    shape, names = read_shape(checkpoint), read_names(checkpoint)
    vocab = checkpoint.tensor(names.words).shape[0]
    count, keeping = len(shape.layers), len(shape.layers) - shape.shared
    layers = [layer(checkpoint, i, names, shape) for i in range(count)]
    return ops.ModelPlan(
        vocab_size=vocab,
        max_context=shape.context,
        query_heads=shape.heads,
        kv=tuple(ops.KvShape(own.kv_heads, own.head_dim) for own in shape.layers[:keeping]),
        rope=shape.rope,
        buffers={**layer_buffers(shape), "logits": vocab},
        operations=(
            ops.Embed(names.words, "x", scale=shape.hidden**0.5),
            *(layer_inputs(shape, names) if shape.inputs else ()),
            *(op for own in layers[:keeping] for op in own),
            # Who keeps no keys and values works on the tokens that are asked for only.
            ops.SelectRows("x", "last"),
            *([ops.SelectRows("inputs", "last_inputs")] if shape.inputs and shape.shared else []),
            *(op for own in layers[keeping:] for op in own),
            ops.Quantize("last", names.norm, shape.epsilon),
            ops.Linear((ops.Projection(head(checkpoint, names), "logits"),)),
            *([ops.SoftCap("logits", shape.logit_cap)] if shape.logit_cap else []),
        ),
        slots={} if shape.experts is None else expert_slots(shape.hidden, shape.experts, names.experts),
        given_span=span,
    )


def text_part(checkpoint: Checkpoint, kinds: tuple[str, ...] = _TEXT_KINDS) -> Checkpoint:
    """The same with the text model's settings as its own. Raises: CheckpointError for one of no such kind."""
    if checkpoint.format == "gguf" or "text_config" not in checkpoint.metadata:
        return checkpoint
    text = config_json.part(checkpoint, "text_config")
    text_checkpoint = replace(checkpoint, metadata=text)
    config_json.require(text_checkpoint, "model_type", kinds, kinds[0])
    tied = {key: checkpoint.metadata[key] for key in ("tie_word_embeddings",) if key in checkpoint.metadata}
    return replace(checkpoint, metadata={**text, **tied})


def head(checkpoint: Checkpoint, names: Names) -> str:
    """The tensor that makes logits: of its own, or the words'."""
    is_own = checkpoint.format == "gguf" or not checkpoint.metadata.get("tie_word_embeddings", True)
    return names.head if is_own and names.head in checkpoint.tensors else names.words


def layer_inputs(shape: Gemma4Shape, names: Names, beyond: int | None = None) -> tuple[ops.Operation, ...]:
    """Of each layer, what a projection of the row says, normed, and a row of its own table.

    Rows of a picture stand for tokens of padding, which is whose row of the table they get. `beyond` is whose
    row tokens get that the table does not have.
    """
    count, mean = len(shape.layers), 2**-0.5
    return (
        ops.Quantize("x"),
        ops.Linear((ops.Projection(names.inputs_projection, "inputs"),)),
        # The projection is scaled by hidden^-0.5; its norm sees that in its epsilon only.
        ops.HeadNorm(
            "inputs",
            0,
            count * shape.inputs,
            count,
            names.inputs_norm,
            shape.epsilon * shape.hidden,
            gain=mean,
        ),
        ops.AddRows(names.inputs_table, "inputs", shape.inputs**0.5 * mean, beyond),
    )


def layer_buffers(shape: Gemma4Shape) -> dict[str, int]:
    """Those of layers are called by their kind and by how wide they are."""
    hidden = shape.hidden
    buffers = {"x": hidden, "last": hidden, "part": hidden}
    for i, own in enumerate(shape.layers):
        kind = "local" if own.is_local else "global"
        queries = shape.heads * own.head_dim
        if own.reads == i:
            buffers[f"qkv_{kind}"] = queries + 2 * own.kv_heads * own.head_dim
        else:
            buffers[f"queries_{kind}"] = queries
        buffers[f"attention_{kind}"] = queries
        buffers[f"gate_up_{own.ffn}"] = 2 * own.ffn
    if shape.inputs:
        inputs = len(shape.layers) * shape.inputs
        buffers |= {"inputs": inputs, "gate": shape.inputs}
        if shape.shared:
            buffers["last_inputs"] = inputs
    if shape.experts is not None:
        buffers |= {"normed": hidden, "experts": hidden, **expert_buffers(shape.experts)}
    return buffers

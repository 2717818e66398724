"""Projector files of Gemma 4 (mmproj) as the vision part of the directory they were made from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from llm_serving.architectures.gguf_keys import number, positive, problem
from llm_serving.architectures.projector_tensors import Named, named
from llm_serving.checkpoints import Checkpoint

_HEARS = ("a.", "mm.a.")  # how names of tensors begin that are not for pictures
_TOWER = "model.vision_tower."
_BOUNDS = ("input_min", "input_max", "output_min", "output_max")
_SIDE = 3  # patches a side that become one row, where a file does not say it


@dataclass(frozen=True, slots=True)
class Gemma4Eyes:
    """The projector type `gemma4v`."""

    architectures: tuple[str, ...] = ("gemma4",)  # of the text model's file
    family: str = "gemma4"
    mark: str = "<|image|>"


def gemma4_vision_part(file: Checkpoint) -> Checkpoint:
    """With names and settings of a directory; what hears in the same file is left out.

    Raises: CheckpointError for keys that mean nothing here, or tensors that are not those of the keys.
    """
    sees = replace(
        file, tensors={name: each for name, each in file.tensors.items() if not name.startswith(_HEARS)}
    )
    layers = positive(file, "vision.block_count")
    if layers > len(sees.tensors):
        raise problem(file, "vision.block_count", layers, f"there are {len(sees.tensors)} tensors")
    heads, head_dim = (
        positive(file, "vision.attention.head_count"),
        sees.tensor("v.blk.0.attn_q_norm.weight").shape[0],
    )
    patch, side = positive(file, "vision.patch_size"), positive(file, "vision.projector.scale_factor", _SIDE)
    width = positive(file, "vision.projection_dim")
    vision: dict[str, Any] = {
        "hidden_size": positive(file, "vision.embedding_length"),
        "intermediate_size": positive(file, "vision.feed_forward_length"),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": max(1, sees.tensor("v.blk.0.attn_k.weight").shape[0] // max(1, head_dim)),
        "head_dim": head_dim,
        "patch_size": patch,
        "pooling_kernel_size": side,
        "rms_norm_eps": number(file, "vision.attention.layer_norm_epsilon", 1e-6),
    }
    processor = {"patch_size": patch, "pooling_kernel_size": side}
    if file.hyper("vision.image_max_pixels") is not None:
        processor["max_soft_tokens"] = positive(file, "vision.image_max_pixels") // (patch * side) ** 2
    return replace(
        file,
        architecture=Gemma4Eyes().family,
        metadata={"vision_config": vision, "text_config": {"hidden_size": width}},
        tensors=named(sees, [*_around(sees, vision, width), *_layers(sees, vision)]),
        extras={"image_processor": processor},
    )


def _around(sees: Checkpoint, vision: dict[str, Any], width: int) -> Named:
    hidden, patch = vision["hidden_size"], vision["patch_size"]
    yield f"{_TOWER}patch_embedder.input_proj.weight", "v.patch_embd.weight", (hidden, 3, patch, patch)
    places = sees.tensor("v.position_embd.weight").shape[1:2]
    yield f"{_TOWER}patch_embedder.position_embedding_table", "v.position_embd.weight", (2, *places, hidden)
    for name in ("std_bias", "std_scale"):
        if f"v.{name}" in sees.tensors:
            yield f"{_TOWER}{name}", f"v.{name}", (hidden,)
    yield "model.embed_vision.embedding_projection.weight", "mm.input_projection.weight", (width, hidden)


def _layers(sees: Checkpoint, vision: dict[str, Any]) -> Named:
    hidden, ffn, head_dim = vision["hidden_size"], vision["intermediate_size"], vision["head_dim"]
    queries, keys = head_dim * vision["num_attention_heads"], head_dim * vision["num_key_value_heads"]
    matrices = {
        "self_attn.q_proj": ("attn_q", (queries, hidden)),
        "self_attn.k_proj": ("attn_k", (keys, hidden)),
        "self_attn.v_proj": ("attn_v", (keys, hidden)),
        "self_attn.o_proj": ("attn_out", (hidden, queries)),
        "mlp.gate_proj": ("ffn_gate", (ffn, hidden)),
        "mlp.up_proj": ("ffn_up", (ffn, hidden)),
        "mlp.down_proj": ("ffn_down", (hidden, ffn)),
    }
    norms = {
        "self_attn.q_norm": ("attn_q_norm", head_dim),
        "self_attn.k_norm": ("attn_k_norm", head_dim),
        "input_layernorm": ("ln1", hidden),
        "post_attention_layernorm": ("attn_post_norm", hidden),
        "pre_feedforward_layernorm": ("ln2", hidden),
        "post_feedforward_layernorm": ("ffn_post_norm", hidden),
    }
    for i in range(vision["num_hidden_layers"]):
        layer, block = f"{_TOWER}encoder.layers.{i}.", f"v.blk.{i}."
        for name, (called, shape) in matrices.items():
            yield f"{layer}{name}.linear.weight", f"{block}{called}.weight", shape
            yield from _bounds(sees, f"{layer}{name}", f"{block}{called}")
        for name, (called, size) in norms.items():
            yield f"{layer}{name}.weight", f"{block}{called}.weight", (size,)


def _bounds(sees: Checkpoint, name: str, called: str) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    for end in _BOUNDS:
        if f"{called}.{end}" in sees.tensors:
            yield f"{name}.{end}", f"{called}.{end}", (1,)

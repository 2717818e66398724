"""Projector files of Qwen-VL (mmproj) as the vision part of the directory they were made from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from llm_serving.architectures.gguf_keys import number, positive, problem
from llm_serving.architectures.projector_tensors import Named, named
from llm_serving.checkpoints import Checkpoint
from llm_serving.errors import CheckpointError

_SIDE = 2  # patches a side that become one row, where a file does not say it


@dataclass(frozen=True, slots=True)
class Generation:
    """A projector type: whose eyes it is."""

    architectures: tuple[str, ...]  # of the text model's file, one of these
    family: str  # as directories call it
    activation: str | None  # what a file must say of it
    second: tuple[str, str]  # matrices of a block's second half, and
    gate: bool  # whether there is one more
    merger: tuple[str, str, str]  # norm and matrices
    layer_norm: bool
    least_rows: int  # that a picture becomes
    mark: str = "<|image_pad|>"


_OLDER = ("merger.ln_q", "merger.mlp.0", "merger.mlp.2")
_NEWER = ("merger.norm", "merger.linear_fc1", "merger.linear_fc2")
GENERATIONS = {
    "qwen2.5vl_merger": Generation(
        ("qwen2vl",), "qwen2_5_vl", "use_silu", ("mlp.up_proj", "mlp.down_proj"), True, _OLDER, False, 4
    ),
    "qwen2vl_merger": Generation(
        ("qwen2vl",), "qwen2_vl", None, ("mlp.fc1", "mlp.fc2"), False, _OLDER, True, 4
    ),
    "qwen3vl_merger": Generation(
        ("qwen3vl", "qwen3vlmoe", "qwen35", "qwen35moe"),
        "qwen3_vl",
        "use_gelu",
        ("mlp.linear_fc1", "mlp.linear_fc2"),
        False,
        _NEWER,
        True,
        64,
    ),
}


@dataclass(frozen=True, slots=True)
class _Size:
    hidden: int
    heads: int
    ffn: int
    layers: int
    patch: int
    side: int
    width: int
    deep: list[int]  # blocks that the text model's layers are shown

    @property
    def merged(self) -> int:
        return self.side**2 * self.hidden


def vision_part(file: Checkpoint, text: Checkpoint, own: Generation, colours: dict[str, Any]) -> Checkpoint:
    """With names and settings of a directory. Frames have a matrix each, so a patch goes through one.

    Raises: CheckpointError for keys that mean nothing here, tensors that are not those of the keys, or other
    views of a picture than the text model's layers are shown.
    """
    if own.activation is not None and file.hyper(own.activation) is not True:
        raise problem(file, own.activation, file.hyper(own.activation), "true is needed")
    size = _read_size(file, own)
    tensors, deep = named(file, [*_tower(file, size, own), *_merger(size, own)]), len(size.deep)
    if deep != (taken := text.hyper("n_deepstack_layers", 0)):
        raise CheckpointError(
            f"'{file.path}' makes {deep} views for the first layers (DeepStack), and "
            f"'{Path(text.path).name}' takes {taken}: it was made for another model."
        )
    vision: dict[str, Any] = {
        "depth": size.layers,
        "hidden_size": size.hidden,
        "embed_dim": size.hidden,
        "intermediate_size": size.ffn,
        "mlp_ratio": size.ffn // size.hidden,
        "num_heads": size.heads,
        "patch_size": size.patch,
        "spatial_merge_size": size.side,
        "temporal_patch_size": 1,
        "deepstack_visual_indexes": size.deep,
        "layer_norm_eps": number(file, "vision.attention.layer_norm_epsilon", 1e-6),
    }
    if own.gate:
        pattern = positive(file, "vision.n_wa_pattern")
        vision["fullatt_block_indexes"] = list(range(pattern - 1, size.layers, pattern))
        vision["window_size"] = positive(file, "vision.window_size", 112)
    row = (size.patch * size.side) ** 2
    processor = {
        **colours,
        "patch_size": size.patch,
        "merge_size": size.side,
        "temporal_patch_size": 1,
        "min_pixels": positive(file, "vision.image_min_pixels", own.least_rows * row),
    }
    if file.hyper("vision.image_max_pixels") is not None:
        processor["max_pixels"] = positive(file, "vision.image_max_pixels")
    return replace(
        file,
        architecture=own.family,
        metadata={"vision_config": vision, "text_config": {"hidden_size": size.width}},
        tensors=tensors,
        extras={"image_processor": processor},
    )


def _read_size(file: Checkpoint, own: Generation) -> _Size:
    hidden, layers = positive(file, "vision.embedding_length"), positive(file, "vision.block_count")
    if layers > len(file.tensors):
        raise problem(file, "vision.block_count", layers, f"there are {len(file.tensors)} tensors")
    ffn = positive(file, "vision.feed_forward_length")
    if own.family == "qwen2_vl":  # whose files have the width of a row there
        ffn = max(file.tensor("v.blk.0.ffn_up.weight").shape)
        if ffn % hidden:
            raise CheckpointError(
                f"A block of '{file.path}' is {ffn} wide, which is no multiple of {hidden}."
            )
    return _Size(
        hidden,
        positive(file, "vision.attention.head_count"),
        ffn,
        layers,
        positive(file, "vision.patch_size"),
        positive(file, "vision.spatial_merge_size", _SIDE),
        positive(file, "vision.projection_dim"),
        _deep_blocks(file, layers),
    )


def _deep_blocks(file: Checkpoint, layers: int) -> list[int]:
    found: Any = file.hyper("vision.is_deepstack_layers")
    if found is None:
        return []
    if not isinstance(found, np.ndarray) or found.shape != (layers,) or found.dtype != np.bool_:
        raise problem(file, "vision.is_deepstack_layers", found, f"{layers} times true or false are needed")
    return [int(index) for index in np.flatnonzero(found)]


def _tower(file: Checkpoint, size: _Size, own: Generation) -> Named:
    hidden, square, patch = size.hidden, (size.hidden, size.hidden), (size.hidden, 3, size.patch, size.patch)
    for frame in ("", ".1"):
        yield f"visual.patch_embed.proj.weight{frame}", f"v.patch_embd.weight{frame}", patch
    if own.family == "qwen3_vl":
        yield "visual.patch_embed.proj.bias", "v.patch_embd.bias", (hidden,)
        positions = file.tensor("v.position_embd.weight").shape[:1]
        yield "visual.pos_embed.weight", "v.position_embd.weight", (*positions, hidden)
    first, second = "ffn_up", "ffn_down"
    if size.ffn != hidden and file.tensor("v.blk.0.ffn_up.weight").shape == (hidden, size.ffn):
        first, second = second, first  # as older files call them
    parts = [
        ("attn.proj", "attn_out", square),
        (own.second[0], first, (size.ffn, hidden)),
        (own.second[1], second, (hidden, size.ffn)),
    ]
    if own.gate:
        parts.append(("mlp.gate_proj", "ffn_gate", (size.ffn, hidden)))
    if "v.blk.0.attn_qkv.weight" in file.tensors:
        parts.append(("attn.qkv", "attn_qkv", (3 * hidden, hidden)))
    else:
        parts += [(f"attn.{name}", f"attn_{name}", square) for name in "qkv"]
    for i in range(size.layers):
        for part, called, shape in parts:
            yield from _with_bias(f"blocks.{i}.{part}", f"v.blk.{i}.{called}", shape)
        for part, called in (("norm1", "ln1"), ("norm2", "ln2")):
            yield from _norm(f"blocks.{i}.{part}", f"v.blk.{i}.{called}", hidden, own.layer_norm)


def _merger(size: _Size, own: Generation) -> Named:
    sides = ((size.merged, size.merged), (size.width, size.merged))
    yield from _norm(own.merger[0], "v.post_ln", size.hidden, own.layer_norm)
    for name, called, shape in zip(own.merger[1:], ("mm.0", "mm.2"), sides, strict=True):
        yield from _with_bias(name, called, shape)
    for index, block in enumerate(size.deep):
        deep, called = f"deepstack_merger_list.{index}.", f"v.deepstack.{block}."
        yield from _norm(f"{deep}norm", f"{called}norm", size.merged, True)
        for matrix, shape in zip(("fc1", "fc2"), sides, strict=True):
            yield from _with_bias(f"{deep}linear_{matrix}", f"{called}{matrix}", shape)


def _with_bias(name: str, called: str, shape: tuple[int, ...]) -> Named:
    yield f"visual.{name}.weight", f"{called}.weight", shape
    yield f"visual.{name}.bias", f"{called}.bias", shape[:1]


def _norm(name: str, called: str, width: int, layer_norm: bool) -> Named:
    yield f"visual.{name}.weight", f"{called}.weight", (width,)
    if layer_norm:
        yield f"visual.{name}.bias", f"{called}.bias", (width,)

"""Names and shapes of a projector file's tensors, and whether they are there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from llm_serving.checkpoints import Checkpoint, Tensor
from llm_serving.errors import CheckpointError

_RAW = ("F32", "F16", "BF16")
_TURNED = "mm_input_projection_weight"  # of Gemma 3: inputs by outputs, as nowhere else

# (name in a directory, name in the file, shape) of each.
Named = Iterator[tuple[str, str, tuple[int, ...]]]


@dataclass(frozen=True, slots=True)
class Size:
    """What a file says of its tower; pixels and patches are those of a side."""

    hidden: int
    heads: int
    ffn: int
    layers: int
    pixels: int
    patch: int
    merged: int  # patches a side that become one row
    width: int  # of a row

    @property
    def patches(self) -> int:
        return self.pixels // self.patch


def tensors_of(
    file: Checkpoint, size: Size, prefix: str, connector: Callable[[Size], Named]
) -> Mapping[str, Tensor]:
    """By the names in a directory, whose tower's begin with `prefix`; what is behind it is the connector's.

    Raises: CheckpointError for one that is missing, too many, or not of the shape that the keys mean.
    """
    return named(file, [*_tower(size, prefix, _are_swapped(file, size)), *connector(size)])


def named(file: Checkpoint, wanted: Sequence[tuple[str, str, tuple[int, ...]]]) -> Mapping[str, Tensor]:
    """These tensors by the names in a directory, and no others. Raises: as `tensors_of`."""
    found = {}
    for own, name, shape in wanted:
        tensor = file.tensor(name)
        if tensor.shape != shape:
            raise CheckpointError(
                f"Tensor '{name}' in '{file.path}' has shape {tensor.shape}, and its keys mean {shape}."
            )
        if tensor.kind not in _RAW and (len(shape) == 1 or own == _TURNED):
            raise CheckpointError(
                f"Tensor '{name}' in '{file.path}' is of {tensor.kind}; {', '.join(_RAW)} are read there."
            )
        found[own] = tensor
    unknown = sorted(file.tensors.keys() - {name for _, name, _ in wanted})
    if unknown:
        raise CheckpointError(
            f"'{file.path}' has tensors that nothing here computes with: {', '.join(unknown[:5])}."
        )
    return found


def _are_swapped(file: Checkpoint, size: Size) -> bool:
    """Older files call the first matrix of a feed-forward `ffn_down`, and the second `ffn_up`."""
    first = file.tensors.get("v.blk.0.ffn_down.weight")
    return size.ffn != size.hidden and first is not None and first.shape == (size.ffn, size.hidden)


def _tower(size: Size, prefix: str, are_swapped: bool) -> Named:
    hidden, square = size.hidden, (size.hidden, size.hidden)
    yield (
        f"{prefix}embeddings.patch_embedding.weight",
        "v.patch_embd.weight",
        (hidden, 3, size.patch, size.patch),
    )
    yield f"{prefix}embeddings.patch_embedding.bias", "v.patch_embd.bias", (hidden,)
    yield f"{prefix}embeddings.position_embedding.weight", "v.position_embd.weight", (size.patches**2, hidden)
    up, down = ("ffn_down", "ffn_up") if are_swapped else ("ffn_up", "ffn_down")
    parts = [
        ("self_attn.q_proj", "attn_q", square),
        ("self_attn.k_proj", "attn_k", square),
        ("self_attn.v_proj", "attn_v", square),
        ("self_attn.out_proj", "attn_out", square),
        ("mlp.fc1", up, (size.ffn, hidden)),
        ("mlp.fc2", down, (hidden, size.ffn)),
        ("layer_norm1", "ln1", (hidden,)),
        ("layer_norm2", "ln2", (hidden,)),
    ]
    named = [
        (f"encoder.layers.{i}.{part}", f"v.blk.{i}.{called}", shape)
        for i in range(size.layers)
        for part, called, shape in parts
    ]
    for part, called, shape in [*named, ("post_layernorm", "v.post_ln", (hidden,))]:
        yield f"{prefix}{part}.weight", f"{called}.weight", shape
        yield f"{prefix}{part}.bias", f"{called}.bias", shape[:1]


def gemma_connector(size: Size) -> Named:
    yield _TURNED, "mm.input_projection.weight", (size.hidden, size.width)
    yield "mm_soft_emb_norm.weight", "mm.soft_emb_norm.weight", (size.hidden,)


def idefics_connector(size: Size) -> Named:
    name = "model.connector.modality_projection.proj.weight"
    yield name, "mm.model.fc.weight", (size.width, size.merged**2 * size.hidden)

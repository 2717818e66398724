"""Projector files of llama.cpp (mmproj) as the vision part of the directory they were made from.

Keys begin with `clip.`, tensors with `v.` and `mm.`: those that `convert_hf_to_gguf.py --mmproj` writes.
Behind this a file and a directory are one: `siglip.py` and the families' own connectors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from llm_serving.architectures.gemma4_projector import Gemma4Eyes, gemma4_vision_part
from llm_serving.architectures.gguf_keys import number, positive, problem
from llm_serving.architectures.projector_tensors import (
    Named,
    Size,
    gemma_connector,
    idefics_connector,
    tensors_of,
)
from llm_serving.architectures.qwen_projector import GENERATIONS, Generation, vision_part
from llm_serving.checkpoints import Checkpoint
from llm_serving.errors import CheckpointError
from llm_serving.images.pixels import LARGEST_SIDE

ARCHITECTURE = "clip"
_KIND_KEYS = ("projector_type", "vision.projector_type")  # the second where a file hears as well


@dataclass(frozen=True, slots=True)
class _Kind:
    """A projector type that is run: whose eyes it is, and what it has beside the tower."""

    architectures: tuple[str, ...]  # of the text model's file, one of these
    mark: str  # a token of every vocabulary that knows images
    family: str  # as directories call it
    merged: int | None  # where the file does not say it
    tower: str  # what stands before the tower's names in a directory
    connector: Callable[[Size], Named]  # tensors behind the tower
    config: Callable[[Size], dict[str, Any]]
    image_processor: Callable[[Checkpoint, Size], dict[str, Any]]


def projector_kind(text: Checkpoint) -> str | None:
    """A projector type that has a GGUF model see; None if its family or vocabulary knows no images."""
    return next(iter(_kinds_of(text)), None)


def _kinds_of(text: Checkpoint) -> list[str]:
    """All such types: one architecture of texts may have several generations of eyes."""
    tokens = text.metadata.get("tokenizer.ggml.tokens")
    if text.format != "gguf" or not isinstance(tokens, list):
        return []
    return [
        name
        for name, kind in _known().items()
        if text.architecture in kind.architectures and kind.mark in tokens
    ]


def with_projector(text: Checkpoint, file: Checkpoint) -> Checkpoint:
    """A GGUF model with what it sees with. Reads no weights.

    Raises: CheckpointError for a file that is no projector, of a type that is not run, of another model, or
    whose tensors are not those that its keys tell of.
    """
    return replace(text, projector=_vision_part(text, file))


def _vision_part(text: Checkpoint, file: Checkpoint) -> Checkpoint:
    name, kind = _kind_of(file)
    if text.format != "gguf":
        raise CheckpointError(
            f"'{file.path}' is for GGUF files; '{text.path}' is a directory, which has its own vision part."
        )
    own = _kinds_of(text)
    if name not in own:
        kinds = " or ".join(f"'{each}'" for each in own)
        needed = f"takes {kinds}" if own else f"of the family '{text.architecture}' takes none"
        raise CheckpointError(
            f"'{file.path}' is a projector of the type '{name}', and '{Path(text.path).name}' {needed}."
        )
    made, width = positive(file, "vision.projection_dim"), text.hyper("embedding_length")
    if made != width:
        raise CheckpointError(
            f"'{file.path}' makes rows of {made} numbers, and '{Path(text.path).name}' takes {width}: "
            "it was made for another model."
        )
    if isinstance(kind, Gemma4Eyes):
        return gemma4_vision_part(file)
    colours = {
        "image_mean": _colours(file, "vision.image_mean"),
        "image_std": _colours(file, "vision.image_std"),
    }
    if isinstance(kind, Generation):
        return vision_part(file, text, kind, colours)
    size = _read_size(file, kind)
    vision = {
        "hidden_size": size.hidden,
        "num_attention_heads": size.heads,
        "intermediate_size": size.ffn,
        "num_hidden_layers": size.layers,
        "image_size": size.pixels,
        "patch_size": size.patch,
        "layer_norm_eps": number(file, "vision.attention.layer_norm_epsilon", 1e-6),
    }
    config = {"vision_config": vision, **kind.config(size)}
    processor = {**colours, **kind.image_processor(file, size)}
    return replace(
        file,
        architecture=kind.family,
        metadata=config,
        tensors=tensors_of(file, size, kind.tower, kind.connector),
        extras={"image_processor": processor},
    )


_AnyKind = _Kind | Generation | Gemma4Eyes


def _kind_of(file: Checkpoint) -> tuple[str, _AnyKind]:
    if file.architecture != ARCHITECTURE:
        raise CheckpointError(
            f"'{file.path}' is a model of the family '{file.architecture}' and no projector, whose "
            f"'general.architecture' is '{ARCHITECTURE}'."
        )
    name = next((found for key in _KIND_KEYS if (found := file.hyper(key)) is not None), None)
    known = _known()
    kind = known.get(name) if isinstance(name, str) else None
    if kind is None:
        raise CheckpointError(
            f"'{file.path}' is a projector of the type '{str(name)[:60]}', which is not run; "
            f"{', '.join(sorted(known))} are."
        )
    if (
        isinstance(kind, _Kind) and file.hyper("use_gelu") is not True
    ):  # sigmoids in its place, for whoever says nothing
        raise problem(file, "use_gelu", file.hyper("use_gelu"), "true is needed")
    return str(name), kind


def _known() -> dict[str, _AnyKind]:
    return {**_KINDS, **GENERATIONS, "gemma4v": Gemma4Eyes()}


def _read_size(file: Checkpoint, kind: _Kind) -> Size:
    def bounded(key: str, most: int, default: int | None = None) -> int:
        value = positive(file, key, default)
        if value > most:
            raise problem(file, key, value, f"up to {most} is read")
        return value

    pixels = bounded("vision.image_size", LARGEST_SIDE)
    size = Size(
        hidden=positive(file, "vision.embedding_length"),
        heads=positive(file, "vision.attention.head_count"),
        ffn=positive(file, "vision.feed_forward_length"),
        layers=bounded("vision.block_count", len(file.tensors)),
        pixels=pixels,
        patch=bounded("vision.patch_size", pixels),
        merged=bounded("vision.projector.scale_factor", pixels, kind.merged),
        width=positive(file, "vision.projection_dim"),
    )
    if size.patches % size.merged:
        raise problem(
            file,
            "vision.projector.scale_factor",
            size.merged,
            f"{size.patches} patches a side of {size.pixels} pixels are no multiple of it",
        )
    return size


def _colours(file: Checkpoint, key: str) -> list[float]:
    """One number for each; half of all where the file does not say it."""
    value = file.hyper(key)
    if value is None:
        return [0.5] * 3
    if not isinstance(value, np.ndarray) or value.shape != (3,) or not np.isfinite(value).all():
        raise problem(file, key, value, "three numbers are needed")
    return [float(each) for each in value]


def _gemma_config(size: Size) -> dict[str, Any]:
    return {
        "mm_tokens_per_image": (size.patches // size.merged) ** 2,
        "text_config": {"model_type": "gemma3_text", "hidden_size": size.width},
    }


def _gemma_processor(_: Checkpoint, size: Size) -> dict[str, Any]:
    return {"size": {"height": size.pixels, "width": size.pixels}}


def _idefics_config(size: Size) -> dict[str, Any]:
    text = {"model_type": "llama", "hidden_size": size.width}
    return {"scale_factor": size.merged, "text_config": text}


def _idefics_processor(file: Checkpoint, size: Size) -> dict[str, Any]:
    """Tiles are as large as the tower's pictures; older files do not say how large all of them are."""
    key = "vision.preproc_image_size"
    longest = positive(file, key, 4 * size.pixels)  # what the family's processor does
    if longest > LARGEST_SIDE:
        raise problem(file, key, longest, f"up to {LARGEST_SIDE} is read")
    return {"size": {"longest_edge": longest}, "max_image_size": {"longest_edge": size.pixels}}


_KINDS = {
    "gemma3": _Kind(
        ("gemma3",),
        "<start_of_image>",
        "gemma3",
        4,
        "",
        gemma_connector,
        _gemma_config,
        _gemma_processor,
    ),
    "idefics3": _Kind(
        ("llama",),
        "<fake_token_around_image>",
        "idefics3",
        None,
        "model.vision_model.",
        idefics_connector,
        _idefics_config,
        _idefics_processor,
    ),
}

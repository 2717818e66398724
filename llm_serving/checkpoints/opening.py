"""From a path on disk to an open checkpoint: single files, split files, directories."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from llm_serving.checkpoints.checkpoint import Checkpoint, Tensor
from llm_serving.checkpoints.gguf import read_gguf_file, to_checkpoint
from llm_serving.checkpoints.huggingface import explain_missing_weights, is_huggingface, read_huggingface
from llm_serving.checkpoints.mapped_file import stamp_files
from llm_serving.checkpoints.projector_file import is_projector_name
from llm_serving.errors import CheckpointError

MAX_PARTS = 1000

_PART = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Open a GGUF file, any part of a split one, a safetensors file, or a directory that holds one model.

    A directory with `config.json` and safetensors is opened as such even if a GGUF file lies there too:
    those are the original, and the GGUF file can be named. Projector files are no models.

    Raises: CheckpointError, with a list of what was found when a directory is not clear.
    """
    path = Path(path)
    if path.suffix == ".safetensors" or (path.is_dir() and is_huggingface(path)):
        return read_huggingface(path)
    parts = parts_of(_model_in(path) if path.is_dir() else path)
    files = stamp_files(parts)
    metadata, tensors = read_gguf_file(parts[0])
    for part in parts[1:]:
        _, more = read_gguf_file(part)
        twice = tensors.keys() & more.keys()
        if twice:
            raise CheckpointError(f"{part}: the tensor {min(twice)!r} stands in an earlier part already.")
        tensors.update(more)
    _check_complete(parts, metadata, tensors)
    return to_checkpoint(parts[0], metadata, tensors, files)


def parts_of(path: Path) -> list[Path]:
    """All files of the model that `path` belongs to, the one with the metadata first.

    Raises: CheckpointError if a part is missing.
    """
    match = _PART.fullmatch(path.name)
    if match is None:
        return [path]
    count = int(match["count"])
    if not 1 <= count <= MAX_PARTS or not 1 <= int(match["number"]) <= count:
        raise CheckpointError(f"{path}: the name says part {match['number']} of {match['count']}.")
    parts = [path.with_name(f"{match['stem']}-{i:05d}-of-{count:05d}.gguf") for i in range(1, count + 1)]
    missing = [part.name for part in parts if not part.is_file()]
    if missing:
        raise CheckpointError(f"{path}: the model is split and parts are missing: {', '.join(missing[:5])}.")
    return parts


def _check_complete(parts: list[Path], metadata: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    count = metadata.get("split.count", len(parts))
    if count not in (0, len(parts)):
        raise CheckpointError(
            f"{parts[0]}: this is one of {count} parts, but {len(parts)} go by the names "
            "'<model>-00001-of-0000N.gguf'. Give every part its original name."
        )
    expected = metadata.get("split.tensors.count", len(tensors))
    if len(parts) > 1 and expected != len(tensors):
        raise CheckpointError(f"{parts[0]}: the parts hold {len(tensors)} tensors of {expected}.")


def _model_in(directory: Path) -> Path:
    try:
        files = sorted(file for file in directory.iterdir() if file.suffix == ".gguf" and file.is_file())
        found = sorted(file.name for file in directory.iterdir())
    except OSError as error:
        raise CheckpointError(f"{directory}: cannot be read: {error.strerror or error}.") from error
    models: dict[str, Path] = {}
    for file in [file for file in files if not is_projector_name(file.name)] or files:
        match = _PART.fullmatch(file.name)
        models.setdefault(f"{match['stem']}-{match['count']}" if match else file.name, file)
    if len(models) == 1:
        return next(iter(models.values()))
    if models:
        names = ", ".join(file.name for file in models.values())
        raise CheckpointError(f"{directory}: holds {len(models)} models ({names}). Name one of the files.")
    if "config.json" in found:
        raise explain_missing_weights(directory)
    listing = ", ".join(found[:10]) + (", …" if len(found) > 10 else "")
    raise CheckpointError(
        f"{directory}: holds no .gguf file and no config.json, only: {listing or 'nothing'}."
    )

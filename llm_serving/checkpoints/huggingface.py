"""A Hugging Face model directory: `config.json` beside safetensors, and what sentence-transformers adds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from llm_serving.checkpoints.checkpoint import Checkpoint, Tensor
from llm_serving.checkpoints.expert_matrices import BLOCKS, SCALES, expert_matrices
from llm_serving.checkpoints.json_files import read_object
from llm_serving.checkpoints.packing_config import left_over, problem_of, read_packing
from llm_serving.checkpoints.quantized import quantized_matrices
from llm_serving.checkpoints.safetensors import SafetensorsFile, read_safetensors
from llm_serving.checkpoints.sentence_transformers import SentenceTransformers, read_sentence_transformers
from llm_serving.errors import CheckpointError

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
MAX_SHARDS = 1000

_SHARD = re.compile(r".*-\d{5}-of-\d{5}\.safetensors")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_CONVERT = (
    'python -c "import torch, safetensors.torch as s; '
    "w = torch.load('pytorch_model.bin', map_location='cpu', weights_only=True); "
    "s.save_file({k: v.clone() for k, v in w.items()}, 'model.safetensors')\""
)


def is_huggingface(directory: Path) -> bool:
    """Whether `read_huggingface` is the reader for this directory."""
    folder = _transformer_folder(directory)
    return (folder / "config.json").is_file() and any((folder / name).is_file() for name in (WEIGHTS, INDEX))


def read_huggingface(path: Path) -> Checkpoint:
    """Open a directory, or the one of a `.safetensors` file and then that file.

    `metadata` is `config.json`; `architecture` its `model_type`. Tensors keep their names, prefixes such as
    `bert.` or `model.` included; those of a dense layer get its folder's name in
    front (`2_Dense.linear.weight`).
    What experts have in MXFP4 becomes one tensor of the name before `_blocks` and `_scales`, what is packed
    otherwise one `.weight`, see `quantized.py`; `extras["unread_weights"]` tells why it cannot be read.
    `extras["sentence_transformers"]` is a `SentenceTransformers`, absent without `modules.json`;
    `extras["skipped_tensors"]` maps the names of tensors that are no floats to their dtype.

    Raises: CheckpointError, naming the file and what is wrong with it.
    """
    root = path if path.is_dir() else path.parent
    settings = read_sentence_transformers(root)
    folder = root / settings.transformer if settings else root
    weights = _weights(folder) if path.is_dir() else path
    config, architecture = _config(folder)
    index = folder / INDEX
    file = _read_shards(index) if weights == index or _is_shard(weights, index) else read_safetensors(weights)
    packing = read_packing(config, folder)
    config = config | {"quantization_config": packing} if packing else config
    extras: dict[str, Any] = {}
    tensors, read = file.tensors, set[str]()
    if problem := problem_of(packing):
        extras["unread_weights"] = problem
    else:
        experts = expert_matrices({name: tensor for name, tensor in file.raw.items() if tensor.kind == "U8"})
        matrices, read = quantized_matrices(file.tensors | file.raw, packing) if packing else ({}, set())
        read |= {f"{name}{end}" for name in experts for end in (BLOCKS, SCALES)}
        tensors = {name: tensor for name, tensor in tensors.items() if name not in read} | experts | matrices
    extras["skipped_tensors"] = {name: dtype for name, dtype in file.skipped.items() if name not in read}
    if packing and not problem:
        others = extras["skipped_tensors"] | {name: tensor.kind for name, tensor in tensors.items()}
        if problem := left_over({name: kind for name, kind in others.items() if name not in matrices}):
            extras["unread_weights"] = problem
    if settings is not None:
        extras["sentence_transformers"] = settings
        tensors = tensors | _dense_tensors(root, settings)
    return Checkpoint(
        str(folder), architecture, config, tensors, extras=extras, format="huggingface", files=file.files
    )


def read_family(directory: Path) -> str:
    """The `model_type` of a directory, which may have no weights yet. Raises: CheckpointError."""
    return _config(directory)[1]


def _config(folder: Path) -> tuple[dict[str, Any], str]:
    """config.json and its `model_type`."""
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such file; weights alone do not tell what they are.")
    config = read_object(path)
    family = config.get("model_type")
    if not isinstance(family, str) or not family:
        raise CheckpointError(f"{path}: there is no text 'model_type'; the family is unknown.")
    return config, family


def explain_missing_weights(directory: Path) -> CheckpointError:
    """What to tell about a directory with neither GGUF nor safetensors."""
    if any(file.is_file() for pattern in _PICKLES for file in directory.glob(pattern)):
        return CheckpointError(
            f"{directory}: holds weights as Python pickles only. They are not loaded, because a pickle can "
            f"run any code. If you trust the file, convert it in that directory with: {_CONVERT}"
        )
    return CheckpointError(
        f"{directory}: holds a config.json and no weights; '{WEIGHTS}', '{INDEX}' or a .gguf file is needed."
    )


def _transformer_folder(directory: Path) -> Path:
    settings = read_sentence_transformers(directory)
    return directory / settings.transformer if settings else directory


def _weights(folder: Path) -> Path:
    for name in (WEIGHTS, INDEX):
        if (folder / name).is_file():
            return folder / name
    raise explain_missing_weights(folder)


def _is_shard(weights: Path, index: Path) -> bool:
    return _SHARD.fullmatch(weights.name) is not None and index.is_file()


def _read_shards(index: Path) -> SafetensorsFile:
    places = read_object(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise CheckpointError(f"{index}: there is no 'weight_map' from tensor to file.")
    names = sorted({name for name in places.values() if isinstance(name, str)})
    for name in names:
        if not name.endswith(".safetensors") or "/" in name or "\\" in name or "\0" in name:
            raise CheckpointError(f"{index}: {name[:60]!r} is no safetensors file of this directory.")
    if len(names) > MAX_SHARDS:
        raise CheckpointError(f"{index}: names {len(names)} files; up to {MAX_SHARDS} are read.")
    shards = {name: read_safetensors(index.with_name(name)) for name in names}
    tensors: dict[str, Tensor] = {}
    skipped: dict[str, str] = {}
    raw: dict[str, Tensor] = {}
    for tensor, name in places.items():
        shard = shards.get(name) if isinstance(name, str) else None
        if shard is not None and tensor in shard.tensors:
            tensors[tensor] = shard.tensors[tensor]
        elif shard is not None and tensor in shard.skipped:
            skipped[tensor] = shard.skipped[tensor]
            if tensor in shard.raw:
                raw[tensor] = shard.raw[tensor]
        else:
            raise CheckpointError(f"{index}: tensor {tensor[:200]!r} is not in {str(name)[:60]!r}.")
    files = tuple(file for shard in shards.values() for file in shard.files)
    return SafetensorsFile(tensors, skipped, raw, files)


def _dense_tensors(root: Path, settings: SentenceTransformers) -> dict[str, Tensor]:
    out: dict[str, Tensor] = {}
    for dense in settings.dense:
        folder = root / dense.prefix[:-1]
        if not (folder / WEIGHTS).is_file():
            raise explain_missing_weights(folder)
        expected: dict[str, tuple[int, ...]] = {"linear.weight": (dense.outputs, dense.inputs)}
        if dense.bias:
            expected["linear.bias"] = (dense.outputs,)
        tensors = read_safetensors(folder / WEIGHTS).tensors
        for name, shape in expected.items():
            tensor = tensors.get(name)
            if tensor is None or tensor.shape != shape:
                found = "is missing" if tensor is None else f"has shape {tensor.shape}"
                raise CheckpointError(f"{folder / WEIGHTS}: tensor {name!r} of shape {shape} {found}.")
            out[dense.prefix + name] = Tensor(dense.prefix + name, tensor.kind, tensor.shape, tensor.data)
    return out

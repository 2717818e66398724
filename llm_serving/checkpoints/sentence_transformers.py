"""What the files of sentence-transformers say about a model: pooling, dense layers, normalising, prompts.

Format: https://sbert.net/docs/package_reference/sentence_transformer/models.html, as its library saves it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from llm_serving.checkpoints.json_files import read_list, read_object
from llm_serving.errors import CheckpointError

PoolingMode = Literal["cls", "max", "mean", "mean_sqrt_len", "weighted_mean", "last"]

# In the order in which several are concatenated.
_POOLING_KEYS: tuple[tuple[str, PoolingMode], ...] = (
    ("pooling_mode_cls_token", "cls"),
    ("pooling_mode_max_tokens", "max"),
    ("pooling_mode_mean_tokens", "mean"),
    ("pooling_mode_mean_sqrt_len_tokens", "mean_sqrt_len"),
    ("pooling_mode_weightedmean_tokens", "weighted_mean"),
    ("pooling_mode_lasttoken", "last"),
)
_POOLING_NAMES: dict[str, PoolingMode] = {
    "cls": "cls",
    "max": "max",
    "mean": "mean",
    "mean_sqrt_len_tokens": "mean_sqrt_len",
    "weightedmean": "weighted_mean",
    "lasttoken": "last",
}
_SETTINGS_FILES = (
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_xlm-roberta_config.json",
)
_MAX_MODULES = 16


@dataclass(frozen=True, slots=True)
class Pooling:
    """`modes` are concatenated in this order, each `width` wide. Without `include_prompt`, the prompt's
    tokens take part in attention but not in pooling."""

    modes: tuple[PoolingMode, ...]
    width: int | None
    include_prompt: bool = True


@dataclass(frozen=True, slots=True)
class Dense:
    """A linear layer: tensors `<prefix>linear.weight` [outputs, inputs], `<prefix>linear.bias` [outputs]."""

    prefix: str
    inputs: int
    outputs: int
    bias: bool
    activation: Literal["identity", "tanh", "gelu", "relu", "sigmoid"]


@dataclass(frozen=True, slots=True)
class SentenceTransformers:
    """In the order of computation: `pooling`, each of `dense`, then length one if `normalize`.

    `max_tokens` counts special tokens. `prompts` go before the text; `default_prompt` is the name of one.
    `transformer` is the folder of the transformer itself below the model's.

    Of a cross-encoder, `activation` is the path of the class that makes scores of its logits, None where it
    names none. Of a language model that ranks, `answers` are the tokens whose logit, or the difference of
    whose logits, is the score; `opens_answer` says that its chat template is to begin the answer.
    """

    pooling: Pooling | None
    dense: tuple[Dense, ...] = ()
    normalize: bool = False
    max_tokens: int | None = None
    lower_case: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    similarity: str | None = None
    transformer: str = ""
    activation: str | None = None
    answers: tuple[int, ...] | None = None
    opens_answer: bool = False


def read_sentence_transformers(directory: Path) -> SentenceTransformers | None:
    """None if the directory has no `modules.json`.

    Raises: CheckpointError for a file that is damaged or a module that is not known.
    """
    path = directory / "modules.json"
    if not path.is_file():
        return None
    modules = [_module(path, entry) for entry in read_list(path)[: _MAX_MODULES + 1]]
    if not modules or len(modules) > _MAX_MODULES or modules[0][0] != "Transformer":
        raise CheckpointError(
            f"{path}: the modules must be a 'Transformer' and up to {_MAX_MODULES - 1} more."
        )
    pooling: Pooling | None = None
    dense: list[Dense] = []
    normalize = False
    answers: tuple[int, ...] | None = None
    for kind, folder in modules[1:]:
        # Pooling, dense layers, normalising: another order would be another computation.
        if kind == "Pooling" and pooling is None and not normalize:
            pooling = _pooling(directory / folder / "config.json")
        elif kind == "Dense" and pooling is not None and not normalize:
            dense.append(_dense(directory / folder / "config.json", folder))
        elif kind == "Normalize" and pooling is not None:
            normalize = True
        elif kind == "LogitScore" and pooling is None and len(modules) == 2:
            answers = _answers(directory / folder / "config.json")
        elif kind != "Dropout":
            raise CheckpointError(
                f"{path}: a module '{kind}' at this place is not supported; "
                "known are Transformer, Pooling, Dense and Normalize, in this order."
            )
    settings = SentenceTransformers(
        pooling=pooling,
        dense=tuple(dense),
        normalize=normalize,
        transformer=modules[0][1],
        answers=answers,
    )
    settings = _with_transformer_settings(settings, directory / modules[0][1])
    return _with_model_settings(settings, directory / "config_sentence_transformers.json")


def _module(path: Path, entry: Any) -> tuple[str, str]:
    """(last part of the class's name, folder)."""
    kind, folder = (entry.get("type"), entry.get("path")) if isinstance(entry, dict) else (None, None)
    if not isinstance(kind, str) or not isinstance(folder, str):
        raise CheckpointError(f"{path}: every module must be an object with the texts 'type' and 'path'.")
    parts = PurePosixPath(folder).parts
    if len(folder) > 200 or "\0" in folder or ".." in parts or PurePosixPath(folder).is_absolute():
        raise CheckpointError(f"{path}: the module path {folder[:60]!r} leaves the model's directory.")
    return kind.rpartition(".")[2][:60], "/".join(parts)


def _pooling(path: Path) -> Pooling:
    config = read_object(path)
    named = config.get("pooling_mode")
    if named is not None:
        names = named if isinstance(named, list) else [named]
        modes = tuple(
            _POOLING_NAMES[name] for name in names if isinstance(name, str) and name in _POOLING_NAMES
        )
        if len(modes) != len(names):
            raise CheckpointError(
                f"{path}: 'pooling_mode' is {str(named)[:60]!r}, not of {list(_POOLING_NAMES)}."
            )
    else:
        # Files that are older than a mode leave its key out. Mean is the library's default.
        modes = tuple(mode for key, mode in _POOLING_KEYS if _flag(path, config, key, mode == "mean"))
    if not modes:
        raise CheckpointError(f"{path}: no pooling mode is switched on.")
    known = {key for key, _ in _POOLING_KEYS}
    unknown = [
        key for key, on in config.items() if key.startswith("pooling_mode_") and on and key not in known
    ]
    if unknown:
        raise CheckpointError(f"{path}: {unknown[0][:60]!r} is not supported.")
    width = _number(path, config, "word_embedding_dimension") or _number(path, config, "embedding_dimension")
    return Pooling(modes, width, _flag(path, config, "include_prompt", True))


def _dense(path: Path, folder: str) -> Dense:
    config = read_object(path)
    inputs, outputs = _number(path, config, "in_features"), _number(path, config, "out_features")
    if inputs is None or outputs is None:
        raise CheckpointError(f"{path}: 'in_features' and 'out_features' are missing.")
    name = config.get("activation_function", "torch.nn.modules.activation.Tanh")
    activations: dict[str, Literal["identity", "tanh", "gelu", "relu", "sigmoid"]] = {
        "Identity": "identity",
        "Tanh": "tanh",
        "GELU": "gelu",
        "ReLU": "relu",
        "Sigmoid": "sigmoid",
    }
    activation = activations.get(name.rpartition(".")[2]) if isinstance(name, str) else None
    if activation is None:
        raise CheckpointError(
            f"{path}: 'activation_function' is {str(name)[:60]!r}, not of {list(activations)}."
        )
    return Dense(f"{folder}.", inputs, outputs, _flag(path, config, "bias", True), activation)


def _answers(path: Path) -> tuple[int, ...]:
    config = read_object(path)
    ids: list[Any] = [config.get("true_token_id"), config.get("false_token_id")]
    if ids[1] is None:
        ids.pop()
    if any(type(i) is not int or not 0 <= i < 1 << 31 for i in ids):
        raise CheckpointError(f"{path}: 'true_token_id' and 'false_token_id' must be ids of tokens.")
    return tuple(ids)


def _with_transformer_settings(settings: SentenceTransformers, folder: Path) -> SentenceTransformers:
    """The same with the limits and options of the transformer's own file, if there is one."""
    path = next((folder / name for name in _SETTINGS_FILES if (folder / name).is_file()), None)
    if path is None:
        return settings
    config = read_object(path)
    options = config.get("processing_kwargs")
    template = options.get("chat_template") if isinstance(options, dict) else None
    return replace(
        settings,
        max_tokens=_number(path, config, "max_seq_length"),
        lower_case=_flag(path, config, "do_lower_case", False),
        opens_answer=isinstance(template, dict) and _flag(path, template, "add_generation_prompt", False),
    )


def _with_model_settings(settings: SentenceTransformers, path: Path) -> SentenceTransformers:
    """The same with prompts, similarity and activation from the file, if it is there."""
    if not path.is_file():
        return settings
    config = read_object(path)
    prompts = config.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(isinstance(text, str) for text in prompts.values()):
        raise CheckpointError(f"{path}: 'prompts' is not an object of texts.")
    default = config.get("default_prompt_name")
    if default in ("query", "document"):
        prompts = {default: "", **prompts}  # these two are always there, empty unless given
    if default is not None and not (isinstance(default, str) and default in prompts):
        raise CheckpointError(f"{path}: 'default_prompt_name' is {str(default)[:60]!r}, which is no prompt.")
    similarity, activation = config.get("similarity_fn_name"), config.get("activation_fn")
    for key, value in (("similarity_fn_name", similarity), ("activation_fn", activation)):
        if value is not None and not isinstance(value, str):
            raise CheckpointError(f"{path}: {key!r} is not a text.")
    return replace(
        settings, prompts=prompts, default_prompt=default, similarity=similarity, activation=activation
    )


def _flag(path: Path, config: dict[str, Any], key: str, default: bool) -> bool:
    value = config.get(key, default)
    if not isinstance(value, bool):
        raise CheckpointError(f"{path}: '{key}' is neither true nor false.")
    return value


def _number(path: Path, config: dict[str, Any], key: str) -> int | None:
    value = config.get(key)
    if value is not None and (type(value) is not int or not 0 < value < 1 << 31):
        raise CheckpointError(f"{path}: '{key}' is not a positive number.")
    return value

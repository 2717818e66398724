"""Model directories as they are published, and all the ways in which their files can be wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from tiny_encoders import write_json, write_modules, write_safetensors, write_tiny_bert

from llm_serving.checkpoints import (
    Dense,
    Pooling,
    SentenceTransformers,
    dequantize,
    open_checkpoint,
    read_huggingface,
)
from llm_serving.errors import CheckpointError

POOLING = "1_Pooling/config.json"
W = {"w": np.arange(6, dtype=np.float32).reshape(2, 3)}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The smallest directory: one tensor."""
    directory = tmp_path / "model"
    write_json(directory / "config.json", {"model_type": "bert", "hidden_size": 3})
    write_safetensors(directory / "model.safetensors", W)
    return directory


def settings_of(directory: Path) -> SentenceTransformers:
    settings = open_checkpoint(directory).extras["sentence_transformers"]
    assert isinstance(settings, SentenceTransformers)
    return settings


def change(path: Path, **changes: Any) -> None:
    write_json(path, {**json.loads(path.read_text()), **changes})


def test_a_bert_directory(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_tiny_bert(tmp_path, max_tokens=32))
    assert (checkpoint.format, checkpoint.architecture, checkpoint.path) == (
        "huggingface",
        "bert",
        str(tmp_path),
    )
    assert checkpoint.metadata["hidden_size"] == 64
    assert checkpoint.hyper("hidden_size") is None
    assert checkpoint.tensors["encoder.layer.1.output.dense.weight"].shape == (64, 96)
    assert checkpoint.extras["skipped_tensors"] == {"embeddings.position_ids": "I64"}
    assert checkpoint.extras["sentence_transformers"] == SentenceTransformers(
        pooling=Pooling(("mean",), 64), normalize=True, max_tokens=32
    )


def test_a_file_is_opened_with_its_config(model: Path) -> None:
    (model / "model.safetensors").rename(model / "other.safetensors")
    checkpoint = open_checkpoint(model / "other.safetensors")
    np.testing.assert_array_equal(dequantize(checkpoint.tensors["w"]), W["w"])
    assert "sentence_transformers" not in checkpoint.extras
    (model / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config\.json: there is no such file"):
        open_checkpoint(model / "other.safetensors")


def test_safetensors_go_before_a_gguf_beside_them(model: Path) -> None:
    writer = gguf.GGUFWriter(model / "m.gguf", "llama")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    assert open_checkpoint(model).format == "huggingface"
    assert open_checkpoint(model / "m.gguf").format == "gguf"
    (model / "model.safetensors").unlink()
    assert open_checkpoint(model).format == "gguf"


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "pytorch_model-00001-of-00002.bin"])
def test_pickles_are_never_loaded(model: Path, name: str) -> None:
    (model / "model.safetensors").rename(model / name)
    with pytest.raises(CheckpointError, match="can run any code.*convert it.*weights_only=True"):
        open_checkpoint(model)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is no JSON"),
        ("[]", "is not a JSON object"),
        ("{}", "no text 'model_type'"),
        ('{"model_type": 3}', "no text 'model_type'"),
        ('{"model_type": "bert", "model_type": "bert"}', "stands there twice"),
        (" " * (1 << 24) + "{}", "is no configuration"),
    ],
)
def test_a_config_that_is_none(model: Path, content: str, message: str) -> None:
    (model / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=rf"config\.json: .*{message}"):
        open_checkpoint(model)


def shard(model: Path) -> dict[str, str]:
    (model / "model.safetensors").unlink()
    write_safetensors(model / "model-00001-of-00002.safetensors", {**W, "unused": W["w"]})
    write_safetensors(model / "model-00002-of-00002.safetensors", {"v": W["w"], "ids": np.arange(3)})
    one, two = (f"model-0000{i}-of-00002.safetensors" for i in (1, 2))
    places = {"w": one, "v": two, "ids": two}
    write_json(model / "model.safetensors.index.json", {"metadata": {"total_size": 1}, "weight_map": places})
    return places


def test_shards_are_one_model(model: Path) -> None:
    shard(model)
    for path in (model, model / "model-00002-of-00002.safetensors"):
        checkpoint = open_checkpoint(path)
        assert list(checkpoint.tensors) == ["w", "v"]
        assert checkpoint.extras["skipped_tensors"] == {"ids": "I64"}


@pytest.mark.parametrize(
    ("change_places", "message"),
    [
        ({"w": "model-00002-of-00002.safetensors"}, "tensor 'w' is not in 'model-00002"),
        ({"x": "model-00001-of-00002.safetensors"}, "tensor 'x' is not in"),
        ({"w": 5}, "tensor 'w' is not in '5'"),
        ({"w": "../model.safetensors"}, "no safetensors file of this directory"),
        ({"w": "/etc/passwd"}, "no safetensors file of this directory"),
        ({"w": "w.bin"}, "no safetensors file of this directory"),
        ({"w": "\0.safetensors"}, "no safetensors file of this directory"),
        ({"w": "gone.safetensors"}, r"gone\.safetensors: there is no such file"),
        ({str(i): f"{i}.safetensors" for i in range(1001)}, "up to 1000 are read"),
    ],
)
def test_an_index_that_is_wrong(model: Path, change_places: dict[str, Any], message: str) -> None:
    places = {**shard(model), **change_places}
    write_json(model / "model.safetensors.index.json", {"weight_map": places})
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(model)


@pytest.mark.parametrize("places", [None, {}, [], "x"])
def test_an_index_of_nothing(model: Path, places: Any) -> None:
    shard(model)
    write_json(model / "model.safetensors.index.json", {"weight_map": places})
    with pytest.raises(CheckpointError, match="no 'weight_map'"):
        open_checkpoint(model)


@pytest.mark.parametrize(
    ("key", "mode"),
    [
        ("cls_token", "cls"),
        ("max_tokens", "max"),
        ("mean_tokens", "mean"),
        ("mean_sqrt_len_tokens", "mean_sqrt_len"),
        ("weightedmean_tokens", "weighted_mean"),
        ("lasttoken", "last"),
    ],
)
def test_pooling_modes(model: Path, key: str, mode: str) -> None:
    write_modules(model, 3, key, normalize=False)
    settings = settings_of(model)
    assert settings.pooling == Pooling((mode,), 3)  # type: ignore[arg-type]
    assert not settings.normalize


def test_pooling_modes_are_concatenated_in_their_order(model: Path) -> None:
    write_modules(model, 3, "mean")
    change(model / POOLING, pooling_mode_cls_token=True, include_prompt=False)
    assert settings_of(model).pooling == Pooling(("cls", "mean"), 3, include_prompt=False)
    write_json(model / POOLING, {"embedding_dimension": 3, "pooling_mode": "lasttoken"})
    assert settings_of(model).pooling == Pooling(("last",), 3)
    write_json(model / POOLING, {"word_embedding_dimension": 3})
    assert settings_of(model).pooling == Pooling(("mean",), 3)


def test_prompts_and_lengths(model: Path) -> None:
    write_modules(model, 3, "mean")
    prompts = {"query": "Query: ", "document": ""}
    facts = {"prompts": prompts, "default_prompt_name": "query", "similarity_fn_name": "dot"}
    write_json(model / "config_sentence_transformers.json", facts)
    write_json(model / "sentence_roberta_config.json", {"max_seq_length": 128, "do_lower_case": True})
    settings = settings_of(model)
    assert (settings.prompts, settings.default_prompt, settings.similarity) == (prompts, "query", "dot")
    assert (settings.max_tokens, settings.lower_case) == (128, True)
    write_json(model / "config_sentence_transformers.json", {"default_prompt_name": "document"})
    assert settings_of(model).prompts == {"document": ""}


def test_a_transformer_in_a_folder_of_its_own(model: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.move(model, root / "0_Transformer")
    write_modules(root, 3, "cls")
    modules = json.loads((root / "modules.json").read_text())
    write_json(root / "modules.json", [{**modules[0], "path": "0_Transformer"}, *modules[1:]])
    checkpoint = open_checkpoint(root)
    assert checkpoint.path == str(root / "0_Transformer")
    assert settings_of(root).pooling == Pooling(("cls",), 3)


def add_dense(model: Path, **changes: Any) -> None:
    write_modules(model, 3, "mean", normalize=False)
    modules = json.loads((model / "modules.json").read_text())
    for i, kind in ((2, "Dropout"), (3, "Dense"), (4, "Normalize")):
        modules.append({"path": f"{i}_{kind}", "type": f"sentence_transformers.models.{kind}"})
    write_json(model / "modules.json", modules)
    config = {"in_features": 3, "out_features": 2, "bias": False, "activation_function": "torch.nn.Tanh"}
    write_json(model / "3_Dense/config.json", {**config, **changes})
    write_safetensors(model / "3_Dense/model.safetensors", {"linear.weight": W["w"]})


def test_dense_modules_bring_their_tensors(model: Path) -> None:
    add_dense(model)
    settings = settings_of(model)
    assert settings.dense == (Dense("3_Dense.", 3, 2, bias=False, activation="tanh"),)
    assert settings.normalize
    tensor = read_huggingface(model).tensors["3_Dense.linear.weight"]
    assert (tensor.name, tensor.shape) == ("3_Dense.linear.weight", (2, 3))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bias": True}, r"model\.safetensors: tensor 'linear.bias' of shape \(2,\) is missing"),
        ({"in_features": 4}, r"'linear.weight' of shape \(2, 4\) has shape \(2, 3\)"),
        ({"in_features": None}, "'in_features' and 'out_features' are missing"),
        ({"out_features": -1}, "'out_features' is not a positive number"),
        ({"activation_function": "torch.nn.Softmax"}, "'torch.nn.Softmax', not of"),
    ],
)
def test_dense_modules_that_are_wrong(model: Path, changes: dict[str, Any], message: str) -> None:
    add_dense(model, **changes)
    with pytest.raises(CheckpointError, match=rf"3_Dense/.*{message}"):
        open_checkpoint(model)


def test_a_dense_module_as_pickle(model: Path) -> None:
    add_dense(model)
    (model / "3_Dense/model.safetensors").rename(model / "3_Dense/pytorch_model.bin")
    with pytest.raises(CheckpointError, match="3_Dense: holds weights as Python pickles only"):
        open_checkpoint(model)

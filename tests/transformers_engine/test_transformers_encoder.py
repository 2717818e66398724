"""Encoders on the transformers engine, against the model itself, one text at a time."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs torch; run it with: make parity")

import numpy as np
import torch
import transformers
from safetensors.numpy import save_file
from tiny_encoders import write_modules
from transformers_encoders import CONFIGS, save_encoder

from llm_serving.backends import load_encoder
from llm_serving.checkpoints import open_checkpoint
from llm_serving.embeddings.encoder import EncoderInput
from llm_serving.errors import CheckpointError, InvalidRequest

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("default")]

LENGTHS = [5, 1, 40, 17, 5, 90]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    root, made = tmp_path_factory.mktemp("encoders"), {}

    def get(family: str, **how: Any) -> Path:
        key = f"{family}-{sorted(how.items())}"
        if key not in made:
            made[key] = save_encoder(root / str(len(made)), family, **how)
        return made[key]

    return get


def load(directory: Path, **how: Any) -> Any:
    return load_encoder("transformers", open_checkpoint(directory), threads=1, device="cpu", **how)[0]


def texts(vocab_size: int = 200) -> list[list[int]]:
    rng = np.random.default_rng(3)
    return [rng.integers(5, vocab_size, length).tolist() for length in LENGTHS]


def hidden_states(directory: Path) -> list[np.ndarray]:
    """float32 [tokens, hidden] of each text."""
    model = transformers.AutoModel.from_pretrained(directory).eval()
    with torch.inference_mode():
        return [model(torch.tensor([ids]))[0][0].numpy() for ids in texts()]


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("family", CONFIGS)
def test_rows_are_the_models(saved: Callable[..., Path], family: str) -> None:
    """In one batch of many lengths, as each text alone."""
    pooling = "lasttoken" if family == "qwen3" else "mean"
    directory = saved(family, pooling=pooling)
    encoder = load(directory)
    got = encoder.encode([EncoderInput(ids) for ids in texts()])
    states = hidden_states(directory)
    rows = [each[-1] if family == "qwen3" else each.mean(0) for each in states]
    np.testing.assert_allclose(got, unit(np.array(rows)), atol=1e-5)
    assert got.dtype == np.float32
    # Of 130 positions, RoBERTa and its kin keep two for padding.
    assert encoder.max_tokens == (130 if family in ("bert", "distilbert", "deberta-v2") else 128)
    assert (encoder.dimensions, encoder.device) == (64, "cpu")
    encoder.close()
    encoder.close()


POOLINGS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "cls": lambda states: states[0],
    "max": lambda states: states.max(0),
    "mean_sqrt_len_tokens": lambda states: states.sum(0) / len(states) ** 0.5,
    "weightedmean_tokens": lambda states: np.average(states, axis=0, weights=np.arange(1, len(states) + 1)),
    "lasttoken": lambda states: states[-1],
}


@pytest.mark.parametrize("pooling", POOLINGS)
def test_pooling(saved: Callable[..., Path], pooling: str) -> None:
    directory = saved("bert", pooling=None)
    write_modules(directory, 64, pooling, normalize=False)
    got = load(directory).encode([EncoderInput(ids) for ids in texts()])
    expected = [POOLINGS[pooling](states) for states in hidden_states(directory)]
    np.testing.assert_allclose(got, expected, atol=1e-4, rtol=1e-4)


def test_without_settings_it_is_the_mean(tmp_path: Path) -> None:
    directory = save_encoder(tmp_path, "bert", pooling=None)
    got = load(directory).encode([EncoderInput(ids) for ids in texts()])
    np.testing.assert_allclose(got, [states.mean(0) for states in hidden_states(directory)], atol=1e-4)


def test_dense_layers(tmp_path: Path) -> None:
    directory = save_encoder(tmp_path, "bert")
    rng = np.random.default_rng(1)
    weight = rng.normal(size=(16, 64)).astype(np.float32)
    bias = rng.normal(size=16).astype(np.float32)
    folder = directory / "2_Dense"
    folder.mkdir()
    settings = {"in_features": 64, "out_features": 16, "bias": True}
    (folder / "config.json").write_text(json.dumps(settings))
    save_file({"linear.weight": weight, "linear.bias": bias}, folder / "model.safetensors")
    modules = json.loads((directory / "modules.json").read_text())
    dense = {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"}
    (directory / "modules.json").write_text(json.dumps([*modules[:2], dense, *modules[2:]]))
    encoder = load(directory)
    means = np.array([states.mean(0) for states in hidden_states(directory)])
    got = encoder.encode([EncoderInput(ids) for ids in texts()])
    np.testing.assert_allclose(got, unit(np.tanh(means @ weight.T + bias)), atol=1e-5)
    assert encoder.dimensions == 16


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_cross_encoders_give_logits(saved: Callable[..., Path], family: str) -> None:
    directory = saved(family, labels=1)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(directory).eval()
    pairs = [EncoderInput(ids, second_segment=len(ids) // 2) for ids in texts()]
    expected = []
    for pair in pairs:
        inputs = {"input_ids": torch.tensor([pair.token_ids])}
        if family == "bert":
            second = [int(i >= pair.second_segment) for i in range(len(pair.token_ids))]
            inputs["token_type_ids"] = torch.tensor([second])
        with torch.inference_mode():
            expected.append(model(**inputs).logits[0].numpy())
    encoder = load(directory)
    assert encoder.dimensions == 1
    np.testing.assert_allclose(encoder.encode(pairs), expected, atol=1e-4)


@pytest.mark.parametrize("ids", [[], [5] * 131, [-1], [10**6]])
def test_what_cannot_be_encoded(saved: Callable[..., Path], ids: list[int]) -> None:
    encoder = load(saved("bert"))
    with pytest.raises(ValueError, match="token"):
        encoder.encode([EncoderInput([5]), EncoderInput(ids)])


def test_what_is_asked_wrongly_is_named(saved: Callable[..., Path]) -> None:
    with pytest.raises(InvalidRequest, match="f32, f16, bf16"):
        load(saved("bert"), precision="q8")
    with pytest.raises(InvalidRequest, match="cuda:3"):
        load_encoder("transformers", open_checkpoint(saved("bert")), device="cuda:3")


def test_missing_weights_are_not_made_up(tmp_path: Path) -> None:
    """A classification head that nobody trained would rank at random."""
    directory = save_encoder(tmp_path, "bert", pooling=None)
    config = json.loads((directory / "config.json").read_text())
    config["architectures"] = ["BertForSequenceClassification"]
    (directory / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="classifier"):
        load(directory)

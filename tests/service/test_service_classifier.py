"""Classifiers from their files: which are taken, and what stands in them."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_deberta import write_tiny_deberta
from tiny_encoders import write_tiny_bert

from llm_serving.config import Settings
from llm_serving.embeddings.encoder import EncoderInput
from llm_serving.errors import CheckpointError, ModelNotFound
from llm_serving.service.encoder_loader import FAKE_CLASSES, load_encoder_model
from llm_serving.service.model import EncoderModel, ModelKind
from llm_serving.service.registry import Registry

pytestmark = pytest.mark.anyio


def loaded(path: Path) -> EncoderModel:
    settings = Settings(classifier_model=str(path), embedding_model="", engine="native", threads=1)
    return load_encoder_model(settings, ModelKind.CLASSIFIER)


async def test_names_and_rows_are_the_files(tmp_path: Path) -> None:
    names = {"0": "safe", "1": "unsafe", "2": "unsure"}
    model = loaded(write_tiny_deberta(tmp_path / "guard", labels=3, id2label=names))
    assert model.name == "guard"
    assert model.classes is not None
    assert model.classes.labels == ("safe", "unsafe", "unsure")
    assert model.classes.activation == "softmax"
    rows = await model.batcher.encode([EncoderInput([5, 6, 7])])
    assert rows.shape == (1, 3)
    await model.close()


async def test_models_without_classes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is no classifier"):
        loaded(write_tiny_bert(tmp_path / "bert"))
    with pytest.raises(CheckpointError, match="names 2 labels for 3 classes"):
        loaded(write_tiny_deberta(tmp_path / "m", labels=3, id2label={"0": "a", "1": "b"}))


async def test_a_model_with_classes_is_no_reranker(tmp_path: Path) -> None:
    path = write_tiny_deberta(tmp_path / "m", labels=3)
    settings = Settings(reranker_model=str(path), embedding_model="", engine="native", threads=1)
    with pytest.raises(CheckpointError, match="3 outputs; a reranker has one.*--classifier-model"):
        load_encoder_model(settings, ModelKind.RERANKER)


async def test_the_fake_engine_has_three_classes() -> None:
    model = load_encoder_model(Settings(engine="fake", classifier_model="c"), ModelKind.CLASSIFIER)
    assert (model.name, model.classes) == ("c", FAKE_CLASSES)
    assert model.batcher.dimensions == 3
    await model.close()


async def test_the_registry_has_it_behind_the_others() -> None:
    registry = Registry(Settings(model_name="smollm2", classifier_model="/models/guard"))
    assert [slot.name for slot in registry.encoders()] == ["all-minilm-l6-v2", "guard"]
    assert registry.find_classifier("unknown") is registry.classifier
    with pytest.raises(ModelNotFound, match="--classifier-model"):
        Registry(Settings(model_name="smollm2")).find_classifier(None)

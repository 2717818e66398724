"""`/classify` with classifiers of several families, against the pipeline of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the parity suite needs torch; run it with: make parity")
transformers = pytest.importorskip(
    "transformers", reason="the parity suite needs transformers; run it with: make parity"
)

from fake_server import open_client  # noqa: E402
from transformers_encoders import save_encoder  # noqa: E402

from llm_serving.service.encoder_loader import load_encoder_model  # noqa: E402

pytestmark = [pytest.mark.parity, pytest.mark.anyio, pytest.mark.filterwarnings("default")]

TEXTS = ["Nobody came.", "the fox went into the dark forest", "rain, rain and rain for a week", "a"]
FAMILIES = ["bert", "roberta", "xlm-roberta", "distilbert", "mpnet", "deberta-v2", "modernbert", "qwen3"]
PAIR = ("the fox went into the dark forest", "rain for a week")


async def classes_of(directory: Path, engine: str = "native") -> tuple[list[str], np.ndarray]:
    """What `/classify` gives for the texts, and last for the pair."""
    settings = {"engine": engine, "classifier_model": str(directory), "embedding_model": ""}
    body = {"input": [*TEXTS, {"text": PAIR[0], "text_pair": PAIR[1]}]}
    async with open_client(load_encoder=load_encoder_model, **settings) as client:
        response = await client.post("/classify", json=body)
    assert response.status_code == 200, response.text
    answer = response.json()
    return answer["labels"], np.array([item["probs"] for item in answer["data"]])


def expected_of(directory: Path) -> tuple[list[str], np.ndarray]:
    pipeline = transformers.pipeline("text-classification", model=str(directory), device="cpu", top_k=None)
    labels = [pipeline.model.config.id2label[i] for i in range(pipeline.model.config.num_labels)]
    found = pipeline([*TEXTS, {"text": PAIR[0], "text_pair": PAIR[1]}])
    tables = [{each["label"]: each["score"] for each in scores} for scores in found]
    return labels, np.array([[table[label] for label in labels] for table in tables])


@pytest.mark.parametrize("engine", ["native", "transformers"])
@pytest.mark.parametrize("family", FAMILIES)
async def test_families(family: str, engine: str, tmp_path: Path) -> None:
    directory = save_encoder(tmp_path / "classes", family, labels=4)
    labels, ours = await classes_of(directory, engine)
    names, expected = expected_of(directory)
    assert labels == names
    np.testing.assert_allclose(ours, expected, atol=1e-5)


@pytest.mark.parametrize(
    "config",
    [
        {"labels": 3, "problem_type": "multi_label_classification"},
        {"labels": 3, "id2label": {0: "against", 1: "neither", 2: "for"}},
        {"labels": 2, "problem_type": "single_label_classification"},
        {"labels": 1},
        {"labels": 1, "problem_type": "regression"},
    ],
)
async def test_what_makes_probabilities(config: dict[str, Any], tmp_path: Path) -> None:
    directory = save_encoder(tmp_path / "classes", "bert", **config)
    labels, ours = await classes_of(directory)
    names, expected = expected_of(directory)
    assert labels == names
    np.testing.assert_allclose(ours, expected, atol=1e-5)

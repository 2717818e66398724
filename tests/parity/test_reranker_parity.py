"""`/rerank` and `/score` with cross-encoders and embedding models, against sentence-transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the parity suite needs torch; run it with: make parity")
sentence_transformers = pytest.importorskip(
    "sentence_transformers", reason="the parity suite needs torch; run it with: make parity"
)

from fake_server import open_client  # noqa: E402
from transformers_encoders import save_encoder  # noqa: E402

from llm_serving.service.encoder_loader import load_encoder_model  # noqa: E402

pytestmark = [pytest.mark.parity, pytest.mark.anyio, pytest.mark.filterwarnings("default")]

QUERY = "who came in the week of the rain"
DOCUMENTS = ["Nobody came.", "the fox went into the dark forest", "rain, rain and rain for a week", "a"]


# What the files of a cross-encoder say of its activation: by now, from version 4 on, before, and nothing.
ACTIVATIONS: list[dict[str, Any]] = [
    {},
    {"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}},
    {"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Tanh", "version": "5.1.0"}},
    {"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"},
    {"sbert_ce_default_activation_function": "torch.nn.modules.activation.Sigmoid"},
    {"sentence_transformers": {"activation_fn": "own_code.Softplus"}},
]


async def scores_of(directory: Path, engine: str = "native") -> tuple[np.ndarray, list[int]]:
    """What `/score` gives for the pairs, and the order of `/rerank`."""
    settings = {"engine": engine, "reranker_model": str(directory), "embedding_model": ""}
    async with open_client(load_encoder=load_encoder_model, **settings) as client:
        scored = (await client.post("/score", json={"text_1": QUERY, "text_2": DOCUMENTS})).json()
        ranked = (await client.post("/rerank", json={"query": QUERY, "documents": DOCUMENTS})).json()
    assert scored["scored_by"] == ranked["scored_by"] == "cross-encoder"
    scores = np.array([item["score"] for item in scored["data"]])
    assert [result["relevance_score"] for result in ranked["results"]] == sorted(scores, reverse=True)
    return scores, [result["index"] for result in ranked["results"]]


@pytest.mark.parametrize("config", ACTIVATIONS)
async def test_a_score_is_what_the_models_activation_gives(config: dict[str, Any], tmp_path: Path) -> None:
    directory = save_encoder(tmp_path / "ranker", "bert", labels=1, **config)
    theirs = sentence_transformers.CrossEncoder(str(directory), device="cpu")
    expected = theirs.predict([(QUERY, document) for document in DOCUMENTS], show_progress_bar=False)
    scores, _ = await scores_of(directory)
    np.testing.assert_allclose(scores, expected, atol=2e-5)


async def test_the_files_of_a_saved_cross_encoder_go_first(tmp_path: Path) -> None:
    made = save_encoder(tmp_path / "made", "bert", labels=1)
    theirs = sentence_transformers.CrossEncoder(str(made), device="cpu", activation_fn=torch.nn.Tanh())
    theirs.save_pretrained(str(tmp_path / "saved"))
    assert (tmp_path / "saved/modules.json").is_file()
    expected = theirs.predict([(QUERY, document) for document in DOCUMENTS], show_progress_bar=False)
    scores, _ = await scores_of(tmp_path / "saved")
    np.testing.assert_allclose(scores, expected, atol=2e-5)


@pytest.mark.parametrize("engine", ["native", "transformers"])
@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta"])
async def test_cross_encoders(family: str, engine: str, tmp_path: Path) -> None:
    directory = save_encoder(tmp_path / "ranker", family, labels=1)
    theirs = sentence_transformers.CrossEncoder(str(directory), device="cpu")
    expected = theirs.predict([(QUERY, document) for document in DOCUMENTS], show_progress_bar=False)
    scores, order = await scores_of(directory, engine)
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    assert order == np.argsort(-expected).tolist()


async def test_embedding_models_score_by_cosine(tmp_path: Path) -> None:
    directory = save_encoder(tmp_path / "embedder", "bert")
    theirs = sentence_transformers.SentenceTransformer(str(directory), device="cpu")
    rows = theirs.encode([QUERY, *DOCUMENTS], show_progress_bar=False)
    expected = theirs.similarity(rows[:1], rows[1:])[0].numpy()
    async with open_client(
        load_encoder=load_encoder_model, engine="native", embedding_model=str(directory)
    ) as client:
        scored = (await client.post("/score", json={"text_1": QUERY, "text_2": DOCUMENTS})).json()
    assert (scored["scored_by"], scored["model"]) == ("embedding-similarity", "embedder")
    np.testing.assert_allclose([item["score"] for item in scored["data"]], expected, atol=1e-5)

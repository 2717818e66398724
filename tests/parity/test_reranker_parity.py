"""`/rerank` and `/score` with cross-encoders and embedding models, against sentence-transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

sentence_transformers = pytest.importorskip(
    "sentence_transformers", reason="the parity suite needs torch; run it with: make parity"
)

from fake_server import open_client  # noqa: E402
from transformers_encoders import save_encoder  # noqa: E402

from llm_serving.service.encoder_loader import load_encoder_model  # noqa: E402

pytestmark = [pytest.mark.parity, pytest.mark.anyio, pytest.mark.filterwarnings("default")]

QUERY = "who came in the week of the rain"
DOCUMENTS = ["Nobody came.", "the fox went into the dark forest", "rain, rain and rain for a week", "a"]


@pytest.mark.parametrize("engine", ["native", "transformers"])
@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta"])
async def test_cross_encoders(family: str, engine: str, tmp_path: Path) -> None:
    directory = save_encoder(tmp_path / "ranker", family, labels=1)
    theirs = sentence_transformers.CrossEncoder(str(directory), device="cpu")
    expected = theirs.predict([(QUERY, document) for document in DOCUMENTS], show_progress_bar=False)
    settings = {"engine": engine, "reranker_model": str(directory), "embedding_model": ""}
    async with open_client(load_encoder=load_encoder_model, **settings) as client:
        scored = (await client.post("/score", json={"text_1": QUERY, "text_2": DOCUMENTS})).json()
        ranked = (await client.post("/rerank", json={"query": QUERY, "documents": DOCUMENTS})).json()
    assert scored["scored_by"] == ranked["scored_by"] == "cross-encoder"
    np.testing.assert_allclose([item["score"] for item in scored["data"]], expected, atol=1e-5)
    assert [result["index"] for result in ranked["results"]] == np.argsort(-expected).tolist()


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

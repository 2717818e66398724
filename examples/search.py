"""Semantic search: embeddings find candidates among many texts, reranking puts the best first."""

from __future__ import annotations

import os
import sys

import httpx
import numpy as np
from openai import OpenAI

client = OpenAI(
    base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8001/v1"),
    api_key=os.environ.get("OPENAI_API_KEY", "none"),
)

TEXTS = [
    "Foxes sleep in dens that they dig themselves, or take from badgers.",
    "Shares fell on Monday, after three weeks of gains.",
    "Bread needs flour, water, salt and time.",
    "A compiler turns source code into instructions of a machine.",
    "The heron stands still until a fish comes near.",
    "Interest rates stay as they are until autumn.",
]


def embed(texts: list[str]) -> np.ndarray:
    """One vector of length 1 a text: [texts, dimensions]."""
    answer = client.embeddings.create(model="default", input=texts)
    return np.array([item.embedding for item in answer.data])


def rerank(query: str, texts: list[str]) -> list[tuple[float, str]]:
    """(score, text), the best first."""
    answer = httpx.post(
        f"{client.base_url}rerank",
        json={"query": query, "documents": texts},
        headers={"authorization": f"Bearer {client.api_key}"},
    )
    results = answer.raise_for_status().json()["results"]
    return [(result["relevance_score"], texts[result["index"]]) for result in results]


def main(query: str) -> None:
    index = embed(TEXTS)  # computed once, kept beside the texts
    nearest = np.argsort(-(index @ embed([query])[0]))[:3]
    for score, text in rerank(query, [TEXTS[i] for i in nearest]):
        print(f"{score:.3f}  {text}")


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]) or "Where do wild animals rest at night?")

"""Scores of pairs of texts: by a cross-encoder where there is one, else by the cosine of embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from llm_serving.embeddings.activations import activate
from llm_serving.embeddings.encoder import EncoderInput
from llm_serving.embeddings.vectors import cosines
from llm_serving.service.embedding import EmbeddingRequest, prefix_of
from llm_serving.service.encoding import (
    LOADING_WAIT_S,
    NameOf,
    check_not_empty,
    encode,
    pair_inputs,
    text_inputs,
)
from llm_serving.service.model import EncoderModel, ModelKind
from llm_serving.service.registry import EncoderSlot, Registry

ScoredBy = Literal["cross-encoder", "embedding-similarity"]


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """Pairs to score: `queries` is one text for all `documents`, or one for each."""

    queries: Sequence[str]
    documents: Sequence[str]
    query_name: NameOf
    document_name: NameOf
    model: str | None = None
    truncate_to: int | None = None  # tokens of a pair, or of a text where texts are embedded
    raw: bool = False  # the logits of a cross-encoder


@dataclass(frozen=True, slots=True)
class Scores:
    """float64 [pairs]: what the activation of a cross-encoder gives, or its logits; -1 … 1 of embeddings."""

    model: EncoderModel
    values: np.ndarray
    num_tokens: int
    scored_by: ScoredBy


class RerankService:
    """Scores from the models of one registry."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def score(self, request: ScoreRequest) -> Scores:
        """One score a pair. Raises: what `EmbeddingService.embed` raises."""
        slot = self._registry.find_scorer(request.model)
        with slot.used():
            model = await slot.ask(LOADING_WAIT_S)
            if slot.kind is ModelKind.RERANKER:
                return await _by_cross_encoder(slot, model, request)
            return await _by_similarity(slot, model, request)


async def _by_cross_encoder(slot: EncoderSlot, model: EncoderModel, request: ScoreRequest) -> Scores:
    queries, documents = request.queries, request.documents
    check_not_empty(queries, request.query_name)
    check_not_empty(documents, request.document_name)

    def prepare() -> list[EncoderInput]:
        return pair_inputs(model, queries, documents, request.document_name, request.truncate_to)

    num_queries = len(documents) // len(queries)  # how often each is read
    num_chars = num_queries * sum(map(len, queries)) + sum(map(len, documents))
    encoded = await encode(slot, model, len(documents), num_chars, prepare)
    logits = encoded.rows[:, 0].astype(np.float64)
    values = logits if request.raw else activate(logits, model.activation)
    return Scores(model, values, encoded.num_tokens, "cross-encoder")


async def _by_similarity(slot: EncoderSlot, model: EncoderModel, request: ScoreRequest) -> Scores:
    queries, documents, cut = request.queries, request.documents, request.truncate_to

    def prepare() -> list[EncoderInput]:
        first = prefix_of(model, EmbeddingRequest(input_type="query"))
        second = prefix_of(model, EmbeddingRequest(input_type="document"))
        return [
            *text_inputs(model, queries, request.query_name, cut, first),
            *text_inputs(model, documents, request.document_name, cut, second),
        ]

    num_chars = sum(map(len, queries)) + sum(map(len, documents))
    encoded = await encode(slot, model, len(queries) + len(documents), num_chars, prepare)
    values = cosines(encoded.rows[: len(queries)], encoded.rows[len(queries) :])
    return Scores(model, values, encoded.num_tokens, "embedding-similarity")

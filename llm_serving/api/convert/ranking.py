"""`/rerank` and `/score`: body → service request; scores → response."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from llm_serving.api.convert.answer import new_id
from llm_serving.api.convert.embedding import truncation
from llm_serving.api.convert.texts import check_count, to_texts
from llm_serving.api.schemas.ranking import RerankRequest
from llm_serving.api.schemas.ranking import ScoreRequest as ScoreBody
from llm_serving.errors import InvalidRequest
from llm_serving.service.reranking import ScoreRequest, Scores

_SIDES = (("text_1", "text_2"), ("queries", "documents"), ("queries", "items"))
_SHAPE = "Send 'text_1' and 'text_2', or 'queries' and 'documents', or 'queries' and 'items'"


def to_rerank_request(body: RerankRequest, max_documents: int) -> ScoreRequest:
    """Raises: InvalidRequest that names the document."""
    documents, texts = body.documents, body.texts
    if documents is not None and texts is not None:
        raise InvalidRequest("'texts' and 'documents' say the same thing. Send one.", "texts")
    name, items = ("documents", documents) if texts is None else ("texts", texts)
    if items is None:
        raise InvalidRequest("'documents' is required: the texts to rank.", "documents")
    check_count(items, name, max_documents)
    cut = body.truncate_prompt_tokens
    return ScoreRequest(
        queries=[body.query],
        documents=to_texts(items, name, objects=name == "documents"),
        query_name=lambda index: "query",
        document_name=(name + ".{}").format,
        model=body.model,
        truncate_to=truncation(-1 if body.truncate and cut is None else cut),
        raw=body.raw_scores is True,
    )


def to_rerank_response(
    body: RerankRequest, asked: ScoreRequest, scores: Scores
) -> dict[str, Any] | list[dict[str, Any]]:
    """Best first; equals in the order of the request. A list where `texts` were sent."""
    order = np.argsort(-scores.values, kind="stable")[: body.top_n].tolist()
    shows = body.return_documents or body.return_text
    if body.texts is not None:
        return [
            {"index": i, "score": float(scores.values[i])} | ({"text": asked.documents[i]} if shows else {})
            for i in order
        ]
    results: list[dict[str, Any]] = [{"index": i, "relevance_score": float(scores.values[i])} for i in order]
    if shows:
        for result in results:
            result["document"] = {"text": asked.documents[result["index"]]}
    return {"id": new_id("rerank"), **_head(scores), "results": results}


def to_score_request(body: ScoreBody, max_pairs: int) -> ScoreRequest:
    """Raises: InvalidRequest (which sides; how many; what item)."""
    first, second = _sides(body)
    queries, documents = getattr(body, first), getattr(body, second)
    check_count(queries, first, max_pairs)
    check_count(documents, second, max_pairs)
    if len(queries) not in (1, len(documents)):
        raise InvalidRequest(
            f"'{first}' has {len(queries)} texts and '{second}' has {len(documents)}. "
            "The first must be one, or as many as the second.",
            first,
        )
    return ScoreRequest(
        queries=to_texts(queries, first),
        documents=to_texts(documents, second),
        query_name=f"{first}.{{}}".format,
        document_name=f"{second}.{{}}".format,
        model=body.model,
        truncate_to=truncation(body.truncate_prompt_tokens),
    )


def to_score_response(scores: Scores) -> dict[str, Any]:
    data = [{"index": i, "object": "score", "score": float(value)} for i, value in enumerate(scores.values)]
    return {"id": new_id("score"), "created": int(time.time()), **_head(scores), "data": data}


def _sides(body: ScoreBody) -> tuple[str, str]:
    names = ("text_1", "text_2", "queries", "documents", "items")
    given = [name for name in names if getattr(body, name) is not None]
    for sides in _SIDES:
        if given == list(sides):
            return sides
    if not given:
        raise InvalidRequest(f"'text_1' is required. {_SHAPE}.", "text_1")
    if len(given) == 1:
        missing = next(sides[1 - sides.index(given[0])] for sides in _SIDES if given[0] in sides)
        raise InvalidRequest(f"'{missing}' is required beside '{given[0]}'. {_SHAPE}.", missing)
    raise InvalidRequest(f"'{given[-1]}' does not go with '{given[0]}'. {_SHAPE}.", given[-1])


def _head(scores: Scores) -> dict[str, Any]:
    return {
        "object": "list",
        "model": scores.model.name,
        "scored_by": scores.scored_by,
        "usage": {"prompt_tokens": scores.num_tokens, "total_tokens": scores.num_tokens},
    }

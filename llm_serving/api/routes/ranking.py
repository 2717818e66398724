"""`POST /rerank` and `POST /score`."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from llm_serving.api.convert import ranking as convert
from llm_serving.api.convert.renaming import TRUNCATE, named_as_sent
from llm_serving.api.deps import read_json, services_of, validate
from llm_serving.api.disconnect import until_disconnect
from llm_serving.api.json_response import JsonResponse
from llm_serving.api.schemas.neutral import RERANK, SCORE, ignored_fields
from llm_serving.api.schemas.ranking import RerankRequest
from llm_serving.api.schemas.ranking import ScoreRequest as ScoreBody
from llm_serving.service.reranking import ScoreRequest, Scores


async def rerank(request: Request) -> Response:
    """Documents in the order of their relevance to a query."""
    settings = services_of(request).settings
    body = validate(RerankRequest, await read_json(request))
    headers = ignored_fields(body.model_extra or {}, RERANK, strict=settings.strict_parameters)
    asked = convert.to_rerank_request(body, settings.max_embedding_inputs)
    with named_as_sent(() if body.texts is None else TRUNCATE):
        scores = await _score(request, asked)
    answer = convert.to_rerank_response(body, asked, scores)
    if body.texts is not None:  # a list has no room for it
        headers = {**headers, "x-scored-by": scores.scored_by}
    return JsonResponse(answer, headers=headers)


async def score(request: Request) -> Response:
    """How well texts go together, pair by pair."""
    settings = services_of(request).settings
    body = validate(ScoreBody, await read_json(request))
    headers = ignored_fields(body.model_extra or {}, SCORE, strict=settings.strict_parameters)
    asked = convert.to_score_request(body, settings.max_embedding_inputs)
    answer = convert.to_score_response(await _score(request, asked))
    return JsonResponse(answer, headers=headers)


async def _score(request: Request, asked: ScoreRequest) -> Scores:
    scores = await until_disconnect(request.receive, services_of(request).rerank.score(asked))
    request.scope["state"]["log"].update(
        model=scores.model.name, texts=len(scores.values), prompt=scores.num_tokens
    )
    return scores

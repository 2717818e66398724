"""`POST /embeddings`."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from llm_serving.api.convert import embedding as convert
from llm_serving.api.deps import read_json, services_of, validate
from llm_serving.api.disconnect import until_disconnect
from llm_serving.api.json_response import JsonResponse
from llm_serving.api.schemas.embedding import EmbedRequest
from llm_serving.api.schemas.neutral import EMBEDDING, ignored_fields
from llm_serving.service.embedding import EmbeddingRequest, Embeddings


async def create_embeddings(request: Request) -> Response:
    """A vector for every text."""
    services = services_of(request)
    settings = services.settings
    body = validate(EmbedRequest, await read_json(request))
    headers = ignored_fields(body.model_extra or {}, EMBEDDING, strict=settings.strict_parameters)
    asked = convert.to_request(body, settings.max_embedding_inputs)
    answer = await convert.to_body(await embedded(request, asked), body.encoding_format)
    return JsonResponse(answer, headers=headers)


async def embedded(request: Request, asked: EmbeddingRequest) -> Embeddings:
    """The vectors, unless the client leaves. Raises: as `EmbeddingService.embed`, and ClientDisconnect."""
    done = await until_disconnect(request.receive, services_of(request).embedding.embed(asked))
    request.scope["state"]["log"].update(
        model=done.model.name, texts=len(done.vectors), prompt=done.num_tokens
    )
    return done

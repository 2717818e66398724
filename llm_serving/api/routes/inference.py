"""`POST /embed`, `POST /similarity` and `GET /info`: Text Embeddings Inference's routes."""

from __future__ import annotations

from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from llm_serving.api.convert import inference as convert
from llm_serving.api.convert.renaming import TRUNCATE, named_as_sent
from llm_serving.api.deps import read_json, services_of, validate
from llm_serving.api.disconnect import until_disconnect
from llm_serving.api.json_response import JsonResponse
from llm_serving.api.routes.embedding import embedded
from llm_serving.api.schemas.inference import EmbedInputs, SimilarityRequest
from llm_serving.api.schemas.neutral import EMBED, SIMILARITY, ignored_fields
from llm_serving.service.encoding import LOADING_WAIT_S


async def embed(request: Request) -> Response:
    """A vector for every text, and nothing around them."""
    return await _embed(request, await read_json(request))


async def similarity(request: Request) -> Response:
    """How near sentences are to one."""
    return await _similarity(request, await read_json(request))


async def embed_or_compare(request: Request) -> Response:
    """As Hugging Face's client asks for either."""
    data = await read_json(request)
    is_of_one = isinstance(data.get("inputs"), dict)
    return await (_similarity if is_of_one else _embed)(request, data)


async def get_info(request: Request) -> Response:
    """Of the embedding model: how much it may be sent."""
    services = services_of(request)
    slot = services.registry.find_embedding(None)
    with slot.used():
        model = await until_disconnect(request.receive, slot.ask(LOADING_WAIT_S))
    told: dict[str, Any] = {
        "model_id": slot.name,
        "model_sha": None,
        "model_dtype": "float32",
        "model_type": {"embedding": {}},
        "max_input_length": model.batcher.max_tokens,
        "max_client_batch_size": services.settings.max_embedding_inputs,
        "auto_truncate": False,
    }
    return JsonResponse(orjson.dumps(told))


async def _embed(request: Request, data: dict[str, Any]) -> Response:
    settings = services_of(request).settings
    body = validate(EmbedInputs, data)
    headers = ignored_fields(body.model_extra or {}, EMBED, strict=settings.strict_parameters)
    asked = convert.to_embed_request(body, settings.max_embedding_inputs)
    with named_as_sent(TRUNCATE):
        embeddings = await embedded(request, asked)
    return JsonResponse(await convert.to_embed_body(embeddings), headers=headers)


async def _similarity(request: Request, data: dict[str, Any]) -> Response:
    settings = services_of(request).settings
    body = validate(SimilarityRequest, data)
    headers = ignored_fields(body.unknown_fields(), SIMILARITY, strict=settings.strict_parameters)
    asked = convert.to_similarity_request(body, settings.max_embedding_inputs)
    with named_as_sent(convert.NAMES):
        embeddings = await embedded(request, asked)
    answer = orjson.dumps(convert.to_similarities(embeddings))
    return JsonResponse(answer, headers=headers)

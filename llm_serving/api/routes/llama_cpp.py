"""`POST /infill` and `POST /completion`, for programs that know llama.cpp's server."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from llm_serving.api.convert.answer import Head, new_id
from llm_serving.api.convert.infill import to_infill
from llm_serving.api.convert.llama_cpp import (
    PieceEvents,
    check_stream,
    to_answer,
    to_generation_options,
)
from llm_serving.api.deps import fairness_key_of, read_json, services_of, validate
from llm_serving.api.disconnect import until_disconnect
from llm_serving.api.respond import respond
from llm_serving.api.schemas.infill import InfillRequest
from llm_serving.api.schemas.llama_cpp import LlamaCppCompletionRequest, LlamaCppFields
from llm_serving.api.schemas.neutral import LLAMA_CPP, ignored_fields
from llm_serving.service.completion import CompletionRequest
from llm_serving.service.generation import Generation


async def create_infill(request: Request) -> Response:
    """What goes to a place in a file."""
    begin = time.perf_counter()
    body = validate(InfillRequest, await read_json(request))
    headers = _headers(request, body)
    request_id, options = new_id("cmpl"), to_generation_options(body, fairness_key_of(request))
    opening = services_of(request).completion.fill_in(request_id, to_infill(body), options, body.model)
    generation = await until_disconnect(request.receive, opening)
    return await _answer(request, generation, request_id, headers, body, begin)


async def continue_prompt(request: Request) -> Response:
    """The continuation of a prompt."""
    begin = time.perf_counter()
    body = validate(LlamaCppCompletionRequest, await read_json(request))
    headers = _headers(request, body)
    asked = CompletionRequest(
        new_id("cmpl"), [body.prompt], to_generation_options(body, fairness_key_of(request)), body.model
    )
    generation = await until_disconnect(request.receive, services_of(request).completion.open(asked))
    return await _answer(request, generation, asked.request_id, headers, body, begin)


def _headers(request: Request, body: LlamaCppFields) -> dict[str, str]:
    check_stream(body)
    strict = services_of(request).settings.strict_parameters
    return ignored_fields(body.unknown_fields(), LLAMA_CPP, strict=strict)


async def _answer(
    request: Request,
    generation: Generation,
    request_id: str,
    headers: dict[str, str],
    body: LlamaCppFields,
    begin: float,
) -> Response:
    async def whole(head: Head, generation: Generation) -> dict[str, Any]:
        return await to_answer(generation, body, begin)

    frames = partial(PieceEvents, begin=begin)
    return await respond(request, generation, request_id, headers, frames, whole, is_stream=bool(body.stream))

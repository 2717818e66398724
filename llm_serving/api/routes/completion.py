"""`POST /completions`."""

from __future__ import annotations

from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from llm_serving.api.convert import completion as convert
from llm_serving.api.convert.frames import completion_frames
from llm_serving.api.convert.sampling import check_together
from llm_serving.api.deps import fairness_key_of, read_json, services_of, validate
from llm_serving.api.disconnect import until_disconnect
from llm_serving.api.respond import respond
from llm_serving.api.schemas.completion import CompletionRequest
from llm_serving.api.schemas.neutral import COMPLETION, ignored_fields


async def create_completion(request: Request) -> Response:
    """The continuation of one or more prompts, whole or as it is made."""
    services = services_of(request)
    body = validate(CompletionRequest, await read_json(request))
    strict = services.settings.strict_parameters
    headers = ignored_fields(body.unknown_fields(), COMPLETION, strict=strict)
    check_together(body, services.settings, len(body.prompt), body.best_of)
    asked = convert.to_request(body, fairness_key_of(request))
    generation = await until_disconnect(request.receive, services.completion.open(asked))
    return await respond(
        request,
        generation,
        asked.request_id,
        headers,
        partial(completion_frames, usage=body.told_usage()),
        partial(convert.to_response, body=body),
        is_stream=bool(body.stream),
    )

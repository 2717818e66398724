"""`POST /infill`, for editors that complete code by llama.cpp's server."""

from __future__ import annotations

import time
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from llm_serving.api.convert.answer import Head, new_id
from llm_serving.api.convert.infill import to_infill, to_infill_options, to_infill_response
from llm_serving.api.deps import fairness_key_of, read_json, services_of, validate
from llm_serving.api.disconnect import until_disconnect
from llm_serving.api.respond import respond
from llm_serving.api.schemas.infill import InfillRequest
from llm_serving.api.schemas.neutral import INFILL, ignored_fields
from llm_serving.errors import UnsupportedParameter
from llm_serving.service.generation import Generation


async def create_infill(request: Request) -> Response:
    """What goes to a place in a file, whole."""
    begin = time.perf_counter()
    services = services_of(request)
    body = validate(InfillRequest, await read_json(request))
    if body.stream:
        raise UnsupportedParameter("stream", "Leave it out; /completions with a 'suffix' streams.")
    headers = ignored_fields(body.unknown_fields(), INFILL, strict=services.settings.strict_parameters)
    request_id, options = new_id("cmpl"), to_infill_options(body, fairness_key_of(request))
    opening = services.completion.fill_in(request_id, to_infill(body), options, body.model)
    generation = await until_disconnect(request.receive, opening)

    async def whole(head: Head, generation: Generation) -> dict[str, Any]:
        return await to_infill_response(generation, body, begin)

    return await respond(request, generation, request_id, headers, None, whole, is_stream=False)

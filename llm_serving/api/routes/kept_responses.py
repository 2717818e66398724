"""`/responses/{id}`: what is kept of a response, or made in the background, and its end before its time."""

from __future__ import annotations

import orjson
from starlette.requests import Request
from starlette.responses import Response

from llm_serving.api.background import replay
from llm_serving.api.convert.response_input import listed_items
from llm_serving.api.deps import fairness_key_of, services_of
from llm_serving.api.json_response import JsonResponse
from llm_serving.errors import InvalidRequest
from llm_serving.service.responses import StoredResponse

_YES, _NO = ("true", "1"), ("false", "0")
_MAX_DIGITS = 9


async def get_response(request: Request) -> Response:
    """A response as it is now; with `stream` its events, those behind `starting_after`."""
    query = request.query_params
    kept = _kept(request)
    stream, after = query.get("stream", "false").lower(), query.get("starting_after")
    if stream not in _YES + _NO:
        raise InvalidRequest("'stream' must be true or false.", "stream")
    if stream in _YES:
        return _replayed(request, kept, after)
    if after is not None:
        raise InvalidRequest("'starting_after' is only allowed together with stream=true.", "starting_after")
    return JsonResponse(kept.body)


async def delete_response(request: Request) -> Response:
    """Forget a response; one that is being made is cancelled."""
    response_id = request.path_params["response_id"]
    await services_of(request).responses.remove(fairness_key_of(request), response_id)
    return JsonResponse({"id": response_id, "object": "response", "deleted": True})


async def cancel_response(request: Request) -> Response:
    """End what is being made in the background, and tell what it has come to; one that has ended stays so."""
    kept = _kept(request)
    if not kept.is_background:
        raise InvalidRequest(
            "This response was not created with background: true. Such a one is cancelled by closing its "
            "connection while it is being made."
        )
    await kept.cancel()
    return JsonResponse(kept.body)


async def list_input_items(request: Request) -> Response:
    """What a response answered, the latest first unless `order=asc`."""
    items = orjson.loads(_kept(request).items)
    return JsonResponse(listed_items(request.path_params["response_id"], items, request.query_params))


def _replayed(request: Request, kept: StoredResponse, after: str | None) -> Response:
    """Raises: InvalidRequest."""
    if kept.events is None:
        raise InvalidRequest(
            "'stream' is for responses that were created with background: true and stream: true.", "stream"
        )
    if after is not None and not (after.isascii() and after.isdigit() and len(after) <= _MAX_DIGITS):
        raise InvalidRequest("'starting_after' must be the sequence_number of an event.", "starting_after")
    return replay(kept.events, -1 if after is None else int(after), services_of(request).settings, {})


def _kept(request: Request) -> StoredResponse:
    """Raises: ResponseNotFound."""
    response_id = request.path_params["response_id"]
    return services_of(request).responses.get(fairness_key_of(request), response_id)

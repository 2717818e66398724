"""`/responses`: create, count, retrieve, delete, cancel, and the items of the input."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from llm_serving.api.convert import chat as convert_chat
from llm_serving.api.convert.answer import new_id
from llm_serving.api.convert.renaming import named_as_sent
from llm_serving.api.convert.response_input import (
    NAMES,
    check_depth,
    input_items,
    listed_items,
    to_chat,
    to_messages,
)
from llm_serving.api.convert.responses import Frame, ResponseStream, to_response
from llm_serving.api.convert.tools import ToolUse, to_tool_use
from llm_serving.api.deps import fairness_key_of, read_json, services_of, validate
from llm_serving.api.disconnect import until_disconnect
from llm_serving.api.respond import respond
from llm_serving.api.schemas.neutral import RESPONSES, ignored_fields
from llm_serving.api.schemas.responses import ResponseRequest
from llm_serving.chat.messages import Message
from llm_serving.errors import InvalidRequest, ResponseNotFound
from llm_serving.service.chat import ChatRequest
from llm_serving.service.responses import StoredResponse


async def create_response(request: Request) -> Response:
    """An answer to items, and to what a former response holds; whole or as it is made."""
    services = services_of(request)
    settings, owner = services.settings, fairness_key_of(request)
    data = await read_json(request)
    check_depth(data)
    body = validate(ResponseRequest, data)
    headers = ignored_fields(body.unknown_fields(), RESPONSES, strict=settings.strict_parameters)
    if body.stream_options is not None and not body.stream:
        raise InvalidRequest("'stream_options' is only allowed together with stream: true.", "stream_options")
    items = input_items(body)
    with named_as_sent(NAMES):
        asked, use, history = _asked(request, body, items)
        generation = await until_disconnect(request.receive, services.chat.open(asked))

    def keep(response: dict[str, Any], answer: Message) -> None:
        if body.store is False:
            return
        parts = (response, items, [*history, answer])
        services.responses.add(owner, asked.request_id, StoredResponse(*map(orjson.dumps, parts)))

    frame = Frame(body, settings.temperature if settings.do_sample else 0.0)
    return await respond(
        request,
        generation,
        asked.request_id,
        headers,
        partial(ResponseStream, frame=frame, use=use, on_done=keep),
        partial(to_response, frame=frame, use=use, on_done=keep),
        is_stream=bool(body.stream),
    )


async def count_response_tokens(request: Request) -> Response:
    """How many tokens the prompt of a response has; the body is that of the response."""
    services = services_of(request)
    body = validate(ResponseRequest, await read_json(request))
    headers = ignored_fields(body.unknown_fields(), RESPONSES, strict=services.settings.strict_parameters)
    with named_as_sent(NAMES):
        asked, _, _ = _asked(request, body, input_items(body))
        tokens = await services.tokens.of_conversation(asked.conversation, asked.model)
    return _json({"object": "response.input_tokens", "input_tokens": len(tokens.ids)}, headers)


async def get_response(request: Request) -> Response:
    """A response that is kept."""
    if request.query_params.get("stream", "false").lower() not in ("false", "0"):
        raise InvalidRequest("'stream' is not supported here: the response is complete.", "stream")
    return Response(_stored(request).body, media_type="application/json")


async def delete_response(request: Request) -> Response:
    """Forget a response."""
    response_id = request.path_params["response_id"]
    services_of(request).responses.remove(fairness_key_of(request), response_id)
    return _json({"id": response_id, "object": "response", "deleted": True})


async def cancel_response(request: Request) -> Response:
    """Only what runs in the background can be cancelled so, and nothing does: leave the connection."""
    _stored(request)
    raise InvalidRequest(
        "This response is complete. One that is being made is cancelled by closing its connection."
    )


async def list_input_items(request: Request) -> Response:
    """What a response answered, the latest first unless `order=asc`."""
    items = orjson.loads(_stored(request).items)
    return _json(listed_items(request.path_params["response_id"], items, request.query_params))


def _asked(
    request: Request, body: ResponseRequest, items: Sequence[dict[str, Any]]
) -> tuple[ChatRequest, ToolUse, list[Message]]:
    """The chat request, what it says of functions, and its messages without instructions.

    Raises: InvalidRequest.
    """
    owner = fairness_key_of(request)
    chat = to_chat(body)
    use = to_tool_use(chat)
    history = to_messages(items)
    if body.previous_response_id is not None:
        try:
            former = services_of(request).responses.get(owner, body.previous_response_id)
        except ResponseNotFound as error:
            raise InvalidRequest(f"'previous_response_id': {error}", "previous_response_id") from None
        history = [*orjson.loads(former.messages), *history]
    messages = history
    if body.instructions:
        messages = [Message(role="system", content=body.instructions), *history]
    asked = convert_chat.to_request(chat, use, owner, request_id=new_id("resp", "_"), messages=messages)
    return asked, use, history


def _stored(request: Request) -> StoredResponse:
    """Raises: ResponseNotFound."""
    response_id = request.path_params["response_id"]
    return services_of(request).responses.get(fairness_key_of(request), response_id)


def _json(value: Any, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(value), headers=headers, media_type="application/json")

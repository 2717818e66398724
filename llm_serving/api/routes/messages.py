"""`POST /messages` and `/messages/count_tokens`: Anthropic's API."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import orjson
from starlette.requests import Request
from starlette.responses import Response

from llm_serving.api.convert import chat as convert_chat
from llm_serving.api.convert.answer import new_id
from llm_serving.api.convert.anthropic_input import NAMES, is_effort_a_wish, to_chat, to_messages
from llm_serving.api.convert.anthropic_output import MessageStream, to_response
from llm_serving.api.convert.renaming import named_as_sent
from llm_serving.api.convert.tools import ToolUse, to_tool_use
from llm_serving.api.deps import fairness_key_of, read_json, services_of, validate
from llm_serving.api.disconnect import until_disconnect
from llm_serving.api.json_response import JsonResponse
from llm_serving.api.respond import respond
from llm_serving.api.schemas.messages import MessagesRequest
from llm_serving.api.schemas.neutral import MESSAGES, ignored_fields
from llm_serving.errors import InvalidRequest
from llm_serving.service.chat import ChatRequest


async def create_message(request: Request) -> Response:
    """The assistant's turn, whole or as it is made."""
    body, headers = await _read(request)
    if body.max_tokens is None:
        raise InvalidRequest("'max_tokens' is required.", "max_tokens")
    with named_as_sent(NAMES):
        asked, use = _asked(request, body)
        generation = await until_disconnect(request.receive, services_of(request).chat.open(asked))
    shows_thoughts = body.thinking is None or body.thinking.display != "omitted"
    return await respond(
        request,
        generation,
        asked.request_id,
        headers,
        partial(MessageStream, use=use, shows_thoughts=shows_thoughts),
        partial(to_response, use=use, shows_thoughts=shows_thoughts),
        is_stream=bool(body.stream),
    )


async def count_message_tokens(request: Request) -> Response:
    """How many tokens the prompt of a message has."""
    body, headers = await _read(request)
    with named_as_sent(NAMES):
        asked, _ = _asked(request, body)
        tokens = await services_of(request).tokens.of_conversation(asked.conversation, asked.model)
    answer = orjson.dumps({"input_tokens": len(tokens.ids)})
    return JsonResponse(answer, headers=headers)


async def _read(request: Request) -> tuple[MessagesRequest, dict[str, str]]:
    """The body, and the headers that list what is ignored of it. Raises: InvalidRequest."""
    body = validate(MessagesRequest, await read_json(request))
    strict = services_of(request).settings.strict_parameters
    return body, ignored_fields(body.unknown_fields(), MESSAGES, strict=strict)


def _asked(request: Request, body: MessagesRequest) -> tuple[ChatRequest, ToolUse]:
    """The chat request, and what it says of functions. Raises: InvalidRequest."""
    chat = to_chat(body)
    use = to_tool_use(chat)
    request_id, owner = new_id("msg", "_"), fairness_key_of(request)
    asked = convert_chat.to_request(chat, to_messages(body), use, owner, request_id=request_id)
    if is_effort_a_wish(body):
        asked = replace(asked, conversation=replace(asked.conversation, is_effort_a_wish=True))
    return asked, use

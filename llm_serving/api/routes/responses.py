"""`POST /responses`, and how many tokens its prompt would have."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import orjson
from starlette.requests import Request
from starlette.responses import Response

from llm_serving.api.background import BackgroundWork, replay
from llm_serving.api.convert import chat as convert_chat
from llm_serving.api.convert.answer import head_of, new_id
from llm_serving.api.convert.renaming import named_as_sent
from llm_serving.api.convert.response_input import (
    NAMES,
    check_depth,
    input_items,
    to_chat,
    to_messages,
    with_references,
)
from llm_serving.api.convert.response_tools import SentTools, read_tools, searches
from llm_serving.api.convert.responses import Frame, ResponseStream, item_ids, to_response
from llm_serving.api.convert.tools import ToolUse, to_tool_use
from llm_serving.api.deps import fairness_key_of, read_json, services_of, validate
from llm_serving.api.disconnect import until_disconnect
from llm_serving.api.json_response import JsonResponse
from llm_serving.api.respond import left_out, respond
from llm_serving.api.schemas.neutral import RESPONSES, ignored_fields
from llm_serving.api.schemas.responses import ResponseRequest
from llm_serving.chat.messages import Message
from llm_serving.errors import InvalidRequest, ResponseNotFound
from llm_serving.service.chat import ChatRequest
from llm_serving.service.event_log import EventLog
from llm_serving.service.generation import Generation
from llm_serving.service.responses import StoredResponse


class Asked(NamedTuple):
    """What a body asks for."""

    chat: ChatRequest
    use: ToolUse
    tools: SentTools
    items: list[dict[str, Any]]  # of the input
    history: list[Message]  # all messages but the instructions


async def create_response(request: Request) -> Response:
    """An answer to items, and to what a former response holds: whole, as it is made, or in the background."""
    services = services_of(request)
    settings = services.settings
    data = await read_json(request)
    check_depth(data)
    body = validate(ResponseRequest, data)
    headers = _ignored(request, body)
    if body.stream_options is not None and not body.stream:
        raise InvalidRequest("'stream_options' is only allowed together with stream: true.", "stream_options")
    if body.background and body.store is False:
        raise InvalidRequest("'background' is not allowed together with store: false.", "background")
    with named_as_sent(NAMES):
        asked = _asked(request, body)
        generation = await until_disconnect(request.receive, services.chat.open(asked.chat))
    frame = Frame(body, asked.tools, settings.temperature if settings.do_sample else 0.0)
    if body.background:
        return await _in_background(request, generation, asked, frame, headers)

    def keep(response: dict[str, Any], answer: Message) -> None:
        if body.store is not False:
            told, items, messages = map(orjson.dumps, (response, asked.items, [*asked.history, answer]))
            kept = StoredResponse(told, items, messages, response["status"], item_ids(response))
            services.responses.add(fairness_key_of(request), asked.chat.request_id, kept)

    return await respond(
        request,
        generation,
        asked.chat.request_id,
        headers,
        partial(ResponseStream, frame=frame, use=asked.use, on_done=keep),
        partial(to_response, frame=frame, use=asked.use, on_done=keep),
        is_stream=bool(body.stream),
    )


async def _in_background(
    request: Request, generation: Generation, asked: Asked, frame: Frame, headers: dict[str, str]
) -> Response:
    """Begin the work on it; tell that it is queued, or of its events. Raises: Overloaded."""
    services = services_of(request)
    headers = headers | left_out(generation)
    response_id = asked.chat.request_id
    events = EventLog() if frame.body.stream else None
    kept = StoredResponse(
        b"", orjson.dumps(asked.items), orjson.dumps(asked.history), is_background=True, events=events
    )

    def keep(response: dict[str, Any], answer: Message) -> None:
        kept.messages = orjson.dumps([*asked.history, answer])

    head = head_of(generation, response_id)
    stream = ResponseStream(head, generation, frame=frame, use=asked.use, on_done=keep)
    work = BackgroundWork(generation, stream, kept)
    await work.begin(services.responses, fairness_key_of(request), response_id, services.metrics)
    if events is not None:
        return replay(events, -1, services.settings, headers)
    return JsonResponse(kept.body, headers=headers)


async def count_response_tokens(request: Request) -> Response:
    """How many tokens the prompt of a response has; the body is that of the response."""
    services = services_of(request)
    body = validate(ResponseRequest, await read_json(request))
    headers = _ignored(request, body)
    with named_as_sent(NAMES):
        asked = _asked(request, body).chat
        tokens = await services.tokens.of_conversation(asked.conversation, asked.model)
    answer = {"object": "response.input_tokens", "input_tokens": len(tokens.ids)}
    return JsonResponse(answer, headers=headers)


def _ignored(request: Request, body: ResponseRequest) -> dict[str, str]:
    """The headers that list what is ignored. Raises: InvalidRequest."""
    unknown = {**body.unknown_fields(), **searches(body.tools or [])}
    strict = services_of(request).settings.strict_parameters
    return ignored_fields(unknown, RESPONSES, strict=strict)


def _asked(request: Request, body: ResponseRequest) -> Asked:
    """Raises: InvalidRequest."""
    owner = fairness_key_of(request)
    items = with_references(input_items(body), _outputs_of(request))
    tools = read_tools(body.tools or [])
    with named_as_sent(tools.names):
        chat = to_chat(body, tools)
        use = to_tool_use(chat)
    history = to_messages(items, tools)
    if body.previous_response_id is not None:
        history = [*_former_messages(request, body.previous_response_id), *history]
    messages = history
    if body.instructions:
        messages = [Message(role="system", content=body.instructions), *history]
    asked = convert_chat.to_request(chat, messages, use, owner, request_id=new_id("resp", "_"))
    return Asked(asked, use, tools, items, history)


def _outputs_of(request: Request) -> Callable[[str], dict[str, Any] | None]:
    """Finds items that kept responses have put out; each response is read once."""
    owner, responses = fairness_key_of(request), services_of(request).responses
    read: dict[str, dict[str, Any]] = {}

    def find(item_id: str) -> dict[str, Any] | None:
        if item_id not in read and (holder := responses.holder(owner, item_id)) is not None:
            read.update((item["id"], item) for item in orjson.loads(holder.body)["output"])
        return read.get(item_id)

    return find


def _former_messages(request: Request, response_id: str) -> list[Message]:
    """Of a response with its answer. Raises: InvalidRequest."""
    try:
        former = services_of(request).responses.get(fairness_key_of(request), response_id)
    except ResponseNotFound as error:
        raise InvalidRequest(f"'previous_response_id': {error}", "previous_response_id") from None
    if not former.has_answer:
        raise InvalidRequest(
            f"'previous_response_id': the response '{response_id}' is {former.status.replace('_', ' ')}. "
            "Only one that is completed or incomplete can be continued.",
            "previous_response_id",
        )
    found: list[Message] = orjson.loads(former.messages)
    return found

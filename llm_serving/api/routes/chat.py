"""`POST /chat/completions`."""

from __future__ import annotations

from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from llm_serving.api.convert import chat as convert
from llm_serving.api.convert.frames import chat_frames
from llm_serving.api.convert.renaming import named_as_sent
from llm_serving.api.convert.sampling import check_together
from llm_serving.api.convert.tools import to_tool_use
from llm_serving.api.deps import fairness_key_of, read_json, services_of, validate
from llm_serving.api.disconnect import until_disconnect
from llm_serving.api.respond import respond
from llm_serving.api.schemas.chat import ChatCompletionRequest
from llm_serving.api.schemas.neutral import CHAT, ignored_fields
from llm_serving.chat.messages import normalize_messages


async def create_chat_completion(request: Request) -> Response:
    """An answer to a conversation, whole or as it is made."""
    services = services_of(request)
    body = validate(ChatCompletionRequest, await read_json(request))
    strict = services.settings.strict_parameters
    headers = ignored_fields(body.unknown_fields(), CHAT, strict=strict)
    check_together(body, services.settings)
    use = to_tool_use(body)
    with named_as_sent(use.names):
        messages = normalize_messages(body.messages)
        asked = convert.to_request(body, messages, use, fairness_key_of(request))
        generation = await until_disconnect(request.receive, services.chat.open(asked))
    shows_thoughts = body.include_reasoning is not False
    return await respond(
        request,
        generation,
        asked.request_id,
        headers,
        partial(chat_frames, usage=body.told_usage(), use=use, include_reasoning=shows_thoughts),
        partial(convert.to_response, use=use, include_reasoning=shows_thoughts),
        is_stream=bool(body.stream),
    )

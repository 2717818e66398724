"""`POST /tokenize`, `/detokenize`, `/apply-template` and `/chat/completions/input_tokens`."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from llm_serving.api.convert import chat as convert
from llm_serving.api.convert.renaming import named_as_sent
from llm_serving.api.convert.template import to_conversation
from llm_serving.api.convert.tools import to_tool_use
from llm_serving.api.deps import read_json, services_of, validate
from llm_serving.api.json_response import JsonResponse
from llm_serving.api.schemas.chat import ChatCompletionRequest
from llm_serving.api.schemas.neutral import CHAT, TOKENS, ignored_fields
from llm_serving.api.schemas.tokens import DetokenizeRequest, TemplateRequest, TokenizeRequest
from llm_serving.chat.messages import normalize_messages
from llm_serving.chat.tools import normalize_tools
from llm_serving.errors import InvalidRequest
from llm_serving.service.rendering import Conversation

_OF_CONVERSATION = ("tools", "reasoning_effort", "chat_template_kwargs", "continue_final_message")


async def tokenize(request: Request) -> Response:
    """A text or a conversation in tokens."""
    services = services_of(request)
    body = validate(TokenizeRequest, await read_json(request))
    headers = _ignored(request, body)
    given = [name for name in ("prompt", "content", "messages") if getattr(body, name) is not None]
    if len(given) != 1:
        raise InvalidRequest(
            "Send one of 'prompt', 'content' and 'messages'.", given[1] if given else "prompt"
        )
    if body.messages is not None:
        tokens = await services.tokens.of_conversation(_conversation(body, body.messages), body.model)
    elif of_conversation := next((name for name in _OF_CONVERSATION if getattr(body, name)), None):
        raise InvalidRequest(
            f"'{of_conversation}' is said of a conversation: send 'messages'.", of_conversation
        )
    else:
        text = body.prompt if body.prompt is not None else body.content or ""
        tokens = await services.tokens.of_text(
            text,
            adds_special=False not in (body.add_special_tokens, body.add_special),
            reads_special=body.parse_special is not False,
            model=body.model,
        )
    answer: dict[str, Any] = {
        "model": tokens.model.name,
        "count": len(tokens.ids),
        "max_model_len": tokens.model.engine.max_context,
        "tokens": tokens.ids,
    }
    if body.return_token_strs:
        answer["token_strs"] = await tokens.pieces()
    return JsonResponse(answer, headers=headers)


async def detokenize(request: Request) -> Response:
    """Tokens as text, which the answer has under the names of both vLLM and llama.cpp."""
    body = validate(DetokenizeRequest, await read_json(request))
    text = await services_of(request).tokens.text_of(body.tokens, body.model)
    return JsonResponse({"prompt": text, "content": text}, headers=_ignored(request, body))


async def apply_template(request: Request) -> Response:
    """The prompt that a conversation becomes."""
    body = validate(TemplateRequest, await read_json(request))
    conversation = _conversation(body, body.messages)
    prompt = await services_of(request).tokens.prompt_of(conversation, body.model)
    return JsonResponse({"prompt": prompt}, headers=_ignored(request, body))


async def count_chat_tokens(request: Request) -> Response:
    """How many tokens the prompt of a chat completion has; the body is that of the completion."""
    services = services_of(request)
    body = validate(ChatCompletionRequest, await read_json(request))
    headers = ignored_fields(body.unknown_fields(), CHAT, strict=services.settings.strict_parameters)
    use = to_tool_use(body)
    with named_as_sent(use.names):
        asked = convert.to_request(body, normalize_messages(body.messages), use)
    tokens = await services.tokens.of_conversation(asked.conversation, asked.model)
    return JsonResponse(
        {"object": "chat.completion.input_tokens", "input_tokens": len(tokens.ids)}, headers=headers
    )


def _conversation(body: TokenizeRequest | TemplateRequest, messages: list[Any]) -> Conversation:
    return to_conversation(body, normalize_messages(messages), normalize_tools(body.tools or []))


def _ignored(request: Request, body: TokenizeRequest | DetokenizeRequest | TemplateRequest) -> dict[str, str]:
    strict = services_of(request).settings.strict_parameters
    return ignored_fields(body.model_extra or {}, TOKENS, strict=strict)

"""`/api/chat`, `/api/generate`, `/api/embed` and `/api/embeddings`: Ollama's API."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import NamedTuple, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from llm_serving.api.convert import chat as convert_chat
from llm_serving.api.convert.answer import new_id
from llm_serving.api.convert.ollama_input import (
    EMBED_NAMES,
    EMBEDDINGS_NAMES,
    NAMES,
    check_context,
    check_keeps_loaded,
    prompt_messages,
    raw_prompt,
    to_chat,
    to_embedding,
    to_messages,
)
from llm_serving.api.convert.ollama_output import (
    AnswerLines,
    Shape,
    chat_shape,
    embed_body,
    generate_shape,
    start_of,
    to_response,
)
from llm_serving.api.convert.renaming import named_as_sent
from llm_serving.api.convert.tools import NO_TOOLS, ToolUse, to_tool_use
from llm_serving.api.deps import fairness_key_of, read_json, services_of, validate
from llm_serving.api.disconnect import until_disconnect
from llm_serving.api.json_response import JsonResponse
from llm_serving.api.respond import respond
from llm_serving.api.routes.embedding import embedded
from llm_serving.api.schemas.neutral import (
    OLLAMA_CHAT,
    OLLAMA_EMBED,
    OLLAMA_GENERATE,
    Neutral,
    ignored_fields,
)
from llm_serving.api.schemas.ollama import (
    OllamaChatRequest,
    OllamaEmbeddingsRequest,
    OllamaEmbedRequest,
    OllamaFields,
    OllamaGenerateRequest,
    OllamaGeneration,
)
from llm_serving.api.sse import LineStream
from llm_serving.embeddings.vectors import unit
from llm_serving.service.completion import CompletionRequest
from llm_serving.service.embedding import EmbeddingRequest
from llm_serving.service.encoding import LOADING_WAIT_S
from llm_serving.service.generation import Generation
from llm_serving.service.load_thread import Model
from llm_serving.service.slot import ModelSlot

Fields = TypeVar("Fields", bound=OllamaFields)
Text = TypeVar("Text", bound=OllamaGeneration)


class Opened(NamedTuple):
    """An answer that is being made."""

    request_id: str
    generation: Generation
    use: ToolUse


async def ollama_chat(request: Request) -> Response:
    """The next message of a conversation, as it is made unless `stream` is false."""
    return await _generated(request, OllamaChatRequest, OLLAMA_CHAT, _open_chat, chat_shape)


async def ollama_generate(request: Request) -> Response:
    """The answer to a prompt, or its continuation with `raw`; without one, the model is only loaded."""
    return await _generated(request, OllamaGenerateRequest, OLLAMA_GENERATE, _open_prompt, generate_shape)


async def ollama_embed(request: Request) -> Response:
    """A vector of length 1 for every text."""
    started_s = time.monotonic()
    body, headers = await _read(request, OllamaEmbedRequest, OLLAMA_EMBED)
    services = services_of(request)
    if not body.input:
        model = await _loaded(request, services.registry.find_embedding(body.model), body)
        return JsonResponse({"model": model, "embeddings": []}, headers=headers)
    with named_as_sent(EMBED_NAMES):
        done = await embedded(request, to_embedding(body, services.settings.max_embedding_inputs))
    answer = await embed_body(done, unit(done.vectors), started_s)
    return JsonResponse(answer, headers=headers)


async def ollama_embeddings(request: Request) -> Response:
    """The vector of one text, as the model gives it."""
    body, headers = await _read(request, OllamaEmbeddingsRequest, OLLAMA_EMBED)
    if not body.prompt:
        await _loaded(request, services_of(request).registry.find_embedding(body.model), body)
        return JsonResponse({"embedding": []}, headers=headers)
    asked = EmbeddingRequest([body.prompt], name_of=lambda _: "prompt", model=body.model)
    with named_as_sent(EMBEDDINGS_NAMES):
        done = await embedded(request, asked)
    return JsonResponse({"embedding": done.vectors[0].tolist()}, headers=headers)


async def _read(request: Request, schema: type[Fields], neutral: Neutral) -> tuple[Fields, dict[str, str]]:
    """The body, and the headers that list what is ignored of it. Raises: InvalidRequest."""
    body = validate(schema, await read_json(request))
    strict = services_of(request).settings.strict_parameters
    return body, ignored_fields(body.unknown_fields(), neutral, strict=strict)


async def _generated(
    request: Request,
    schema: type[Text],
    neutral: Neutral,
    open_text: Callable[[Request, Text], Awaitable[Opened]],
    shape: Shape,
) -> Response:
    """A text, or where there is nothing to answer, word of the model."""
    started_s = time.monotonic()
    body, headers = await _read(request, schema, neutral)
    if body.is_empty():
        registry = services_of(request).registry
        model = await _loaded(request, registry.find(body.model), body)
        adapter = registry.adapter(body.model)
        model = adapter.name if adapter else model
        empty = shape("", "", ())
        return JsonResponse(
            {**start_of(model), **empty, "done": True, "done_reason": "load"}, headers=headers
        )
    with named_as_sent(NAMES):
        request_id, generation, use = await open_text(request, body)
    return await respond(
        request,
        generation,
        request_id,
        headers,
        partial(AnswerLines, shape=shape, use=use, started_s=started_s),
        partial(to_response, shape=shape, use=use, started_s=started_s),
        is_stream=body.stream is not False,
        stream_class=LineStream,
    )


async def _open_chat(request: Request, body: OllamaChatRequest) -> Opened:
    messages = to_messages(body)
    chat = to_chat(body, body.tools, continues=messages[-1]["role"] == "assistant")
    use = to_tool_use(chat)
    asked = convert_chat.to_request(
        chat, messages, use, fairness_key_of(request), request_id=new_id("ollama")
    )
    await _check_context(request, body)
    return Opened(asked.request_id, await services_of(request).chat.open(asked), use)


async def _open_prompt(request: Request, body: OllamaGenerateRequest) -> Opened:
    services = services_of(request)
    messages, request_id = prompt_messages(body), new_id("ollama")
    asked = convert_chat.to_request(
        to_chat(body), messages, NO_TOOLS, fairness_key_of(request), request_id=request_id
    )
    await _check_context(request, body)
    if not body.raw and not body.suffix:
        return Opened(request_id, await services.chat.open(asked), NO_TOOLS)
    prompt, suffix = raw_prompt(body), body.suffix or ""
    completion = CompletionRequest(request_id, [prompt], asked.options, asked.model, suffix=suffix)
    return Opened(request_id, await services.completion.open(completion), NO_TOOLS)


async def _check_context(request: Request, body: OllamaGeneration) -> None:
    """Last, since the model must be there for it. Raises: InvalidRequest, and as `_asked`."""
    model = await _asked(request, services_of(request).registry.find(body.model))
    check_context(body.asked_options(), model.engine.max_context)


async def _loaded(request: Request, slot: ModelSlot[Model], body: OllamaFields) -> str:
    """The name of the model, which is waited for.

    Raises: ModelLoading, ModelUnavailable; UnsupportedParameter if it is to be unloaded.
    """
    check_keeps_loaded(body)
    await _asked(request, slot, LOADING_WAIT_S)
    return slot.name


async def _asked(request: Request, slot: ModelSlot[Model], wait_s: float = 0.0) -> Model:
    """The model, unless the client leaves. Raises: as `ModelSlot.ask`, and ClientDisconnect."""
    with slot.used():
        return await until_disconnect(request.receive, slot.ask(wait_s))

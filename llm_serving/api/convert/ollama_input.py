"""Ollama's API: body → the request of the chat, completion or embedding API that it is, in other words.

Errors name the fields as the client sent them: `options.num_predict`, not `max_tokens`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from llm_serving.api.convert.images import ollama_pictures, with_parts
from llm_serving.api.convert.texts import check_count, to_texts
from llm_serving.api.deps import validate
from llm_serving.api.schemas.chat import ChatFields
from llm_serving.api.schemas.ollama import (
    OllamaChatRequest,
    OllamaEmbedRequest,
    OllamaFields,
    OllamaGenerateRequest,
    OllamaGeneration,
    OllamaOptions,
)
from llm_serving.chat.messages import Message, normalize_message
from llm_serving.chat.pictures import Picture
from llm_serving.config import flag_name
from llm_serving.errors import InvalidRequest, UnsupportedParameter
from llm_serving.service.embedding import EmbeddingRequest

# How the other APIs call what is called otherwise here; see `convert/renaming.py`.
NAMES = (
    (re.compile(r"response_format(\.json_schema\.schema)?"), "format"),
    (re.compile(r"max_tokens"), "options.num_predict"),
    (re.compile(r"reasoning_effort"), "think"),
    (re.compile(r"reasoning_content"), "thinking"),
    (re.compile(r"continue_final_message"), "messages"),
    (re.compile(r"(messages\.\d+)\.name"), r"\1.tool_name"),
)
EMBED_NAMES = (
    (re.compile(r"truncate_prompt_tokens: -1"), "truncate: true"),
    (re.compile(r"truncate_prompt_tokens"), "options.num_ctx"),
    (re.compile(r"must be -1, or from"), "must be from"),
)
EMBEDDINGS_NAMES = (
    (
        re.compile(r"send truncate_prompt_tokens: -1 to have its end cut off"),
        "let /api/embed cut its end off",
    ),
)
_NO_LIMIT = 2**31 - 1  # tokens; the context ends an answer before


def to_chat(body: OllamaGeneration, tools: list[Any] | None = None, *, continues: bool = False) -> ChatFields:
    """The same request of the chat API, but for its messages; the answer `continues` the last of these.

    Raises: InvalidRequest.
    """
    options = body.asked_options()
    think = body.think
    return validate(
        ChatFields,
        {
            "model": body.model,
            "tools": tools,
            "continue_final_message": continues,
            "reasoning_effort": ("medium" if think else "none") if isinstance(think, bool) else think,
            "response_format": _format(body.format),
            "logprobs": body.logprobs,
            "top_logprobs": body.top_logprobs,
            "max_tokens": _limit(options.num_predict),
            "temperature": options.temperature,
            "top_k": options.top_k,
            "top_p": options.top_p,
            "min_p": options.min_p,
            "typical_p": options.typical_p,
            "seed": options.seed,
            "stop": options.stop,
            "repetition_penalty": options.repeat_penalty,
            "presence_penalty": options.presence_penalty,
            "frequency_penalty": options.frequency_penalty,
            "truncation": "auto" if isinstance(body, OllamaChatRequest) and body.truncate else None,
        },
    )


def check_context(options: OllamaOptions, max_context: int) -> None:
    """Raises: InvalidRequest if there is less room than was asked for, in tokens."""
    if options.num_ctx is not None and options.num_ctx > max_context:
        raise InvalidRequest(
            f"'options.num_ctx' is {options.num_ctx}, and a conversation may hold {max_context} tokens here. "
            f"Ask for less, or start the server with more ({flag_name('context_length')}).",
            "options.num_ctx",
        )


def check_keeps_loaded(body: OllamaFields) -> None:
    """For requests without text. Raises: UnsupportedParameter."""
    if body.asks_to_unload():
        raise UnsupportedParameter("keep_alive", "Leave it out: requests for text unload nothing here.")


def to_messages(body: OllamaChatRequest) -> list[Message]:
    """The conversation. Raises: InvalidRequest that names the message, UnsupportedParameter."""
    return [_message(message, f"messages.{i}") for i, message in enumerate(body.messages or [])]


def prompt_messages(body: OllamaGenerateRequest) -> list[Message]:
    """The conversation that a prompt is. Raises: InvalidRequest that names an image."""
    system = [Message(role="system", content=body.system)] if body.system else []
    prompt = Message(role="user", content=body.prompt or "")
    return [*system, _shown(prompt, ollama_pictures(body.images, "images"))]


def raw_prompt(body: OllamaGenerateRequest) -> str:
    """Raises: InvalidRequest for what only a template could place."""
    given = {"system": body.system, "images": body.images, "think": body.think not in (None, False, "none")}
    if name := next((name for name, is_given in given.items() if is_given), None):
        raise InvalidRequest(
            f"'{name}' needs the chat template, which raw: true and a 'suffix' go without.", name
        )
    return body.prompt or ""


def to_embedding(body: OllamaEmbedRequest, max_inputs: int) -> EmbeddingRequest:
    """Texts that are cut to `num_ctx`, or what the model takes, unless that is switched off.

    Raises: InvalidRequest that names the item.
    """
    items = body.input if isinstance(body.input, list) else [body.input]
    check_count(items, "input", max_inputs)
    return EmbeddingRequest(
        texts=to_texts(items, "input"),
        name_of="input.{}".format if isinstance(body.input, list) else _whole,
        model=body.model,
        dimensions=body.dimensions,
        truncate_to=None if body.truncate is False else body.asked_options().num_ctx or -1,
    )


def _message(message: Any, where: str) -> Message:
    pictures = []
    if isinstance(message, Mapping):
        pictures = ollama_pictures(message.get("images"), f"{where}.images")
        message = {**message, "reasoning_content": message.get("thinking")}
        if message.get("tool_name") is not None:
            message["name"] = message["tool_name"]
    return _shown(normalize_message(message, where), pictures)


def _shown(message: Message, pictures: list[Picture]) -> Message:
    """Images go before the text, as Ollama has them."""
    if pictures and message["role"] != "user":
        where = pictures[0]["where"]
        raise InvalidRequest(f"'{where}' is an image, and those are of the user.", where)
    return with_parts(message, [*pictures, *([message["content"]] if message["content"] else [])])


def _format(value: Any) -> dict[str, Any] | None:
    if value is None or value == "":
        return None
    if value == "json":
        return {"type": "json_object"}
    if not isinstance(value, dict):
        raise InvalidRequest("'format' must be 'json' or a JSON schema, an object.", "format")
    return {"type": "json_schema", "json_schema": {"schema": value}}


def _limit(num_predict: int | None) -> int | None:
    if num_predict == 0:
        raise InvalidRequest(
            "'options.num_predict' must be at least 1, or -1 for no limit but the context.",
            "options.num_predict",
        )
    return _NO_LIMIT if num_predict is not None and num_predict < 0 else num_predict


def _whole(index: int) -> str:
    return "input"

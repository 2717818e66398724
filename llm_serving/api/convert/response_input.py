"""`/responses`: body → the chat request that it is, in other words.

Errors name the fields as the client sent them: `input.3.content`, not `messages.4.content`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson

from llm_serving.api.convert.images import split_pictures, with_parts
from llm_serving.api.convert.paging import page_of
from llm_serving.api.convert.response_tools import TEXT, SentTools, is_search
from llm_serving.api.deps import validate
from llm_serving.api.schemas.chat import ChatFields
from llm_serving.api.schemas.responses import MAX_ITEMS, ResponseRequest
from llm_serving.api.schemas.sampling import DecodingFields
from llm_serving.chat.messages import Message, normalize_message
from llm_serving.chat.pictures import Part, read_picture
from llm_serving.errors import InvalidRequest, UnsupportedParameter

LOGPROBS = "message.output_text.logprobs"
_INCLUDES = (LOGPROBS, "reasoning.encrypted_content")  # the second: there is none, whoever asks
_OUTPUTS = ("function_call_output", "custom_tool_call_output")
# How the chat API calls what is called otherwise here; see `convert/renaming.py`.
NAMES = (
    (re.compile(r"response_format\.json_schema"), "text.format"),
    (re.compile(r"response_format"), "text.format"),
    (re.compile(r"reasoning_effort"), "reasoning.effort"),
    (re.compile(r"max_completion_tokens|max_tokens"), "max_output_tokens"),
    (re.compile(r"tool_choice\.allowed_tools\."), "tool_choice."),
    (re.compile(r"((?:tools|input)\.\d+)\.function\."), r"\1."),
    (re.compile(r"(tool_choice(?:\.tools\.\d+)?)\.function\."), r"\1."),
    (re.compile(r"^messages$"), "input"),
)


def check_depth(data: dict[str, Any]) -> None:
    """Parts of a request are told again in its response, and orjson writes 254 levels but reads 1024.

    Raises: InvalidRequest.
    """
    try:
        orjson.dumps([[[[data]]]])  # deeper than any part stands in an event
    except orjson.JSONEncodeError:
        raise InvalidRequest("The body is nested more than 250 levels deep.") from None


def to_chat(body: ResponseRequest, tools: SentTools) -> ChatFields:
    """The same request of the chat API, but for its messages, which `to_messages` makes.

    Raises: InvalidRequest.
    """
    shared = {name: getattr(body, name) for name in DecodingFields.model_fields}
    has_logprobs = LOGPROBS in _includes(body)
    if body.top_logprobs and not has_logprobs:
        raise InvalidRequest(
            f"'top_logprobs' is only allowed together with include: [\"{LOGPROBS}\"].", "top_logprobs"
        )
    return validate(
        ChatFields,
        {
            **shared,
            "logit_bias": {str(token_id): bias for token_id, bias in body.logit_bias.items()},
            "max_completion_tokens": body.max_output_tokens,
            "logprobs": has_logprobs,
            "top_logprobs": body.top_logprobs if has_logprobs else None,
            "response_format": _format(body),
            "tools": list(tools.functions),
            "tool_choice": _choice(body.tool_choice, tools),
            "parallel_tool_calls": body.parallel_tool_calls,
            "reasoning_effort": body.effort(),
            "chat_template_kwargs": body.chat_template_kwargs,
            "truncation": body.truncation,
        },
    )


def input_items(body: ResponseRequest) -> list[dict[str, Any]]:
    """What was sent, as items. Raises: InvalidRequest."""
    if isinstance(body.input, str):
        content = [{"type": "input_text", "text": body.input}]
        return [{"type": "message", "role": "user", "content": content}]
    if not isinstance(body.input, list) or not 1 <= len(body.input) <= MAX_ITEMS:
        raise InvalidRequest(f"'input' must be a text, or a list of 1 to {MAX_ITEMS} items.", "input")
    for i, item in enumerate(body.input):
        if not isinstance(item, dict):
            raise InvalidRequest(f"'input.{i}' must be an object with a 'type'.", f"input.{i}")
    return body.input


def with_references(
    items: Sequence[dict[str, Any]], find: Callable[[str], dict[str, Any] | None]
) -> list[dict[str, Any]]:
    """Items with those that others only name, which `find` finds by id. Raises: InvalidRequest."""
    found, ids = [], set()
    for i, item in enumerate(items):
        if not _is_reference(item):
            found.append(item)
            continue
        at = f"input.{i}"
        _require_text(item, at, "id")
        if item["id"] in ids:  # a short request would be as long as it likes
            raise InvalidRequest(f"'{at}.id' names an item for the second time.", f"{at}.id")
        ids.add(item["id"])
        named = find(item["id"])
        if named is None:
            raise InvalidRequest(
                f"'{at}.id' is '{item['id'][:80]}', and no response is kept that has put out this item. Send "
                "the item itself.",
                f"{at}.id",
            )
        found.append(named)
    return found


def _is_reference(item: Mapping[str, Any]) -> bool:
    return item.get("type") == "item_reference" or (
        item.get("type") is None and item.keys() <= {"type", "id"}
    )


def to_messages(items: Sequence[Mapping[str, Any]], tools: SentTools, where: str = "input") -> list[Message]:
    """Items → messages. Calls that follow one another are one message, with the text before them.

    Raises: InvalidRequest that names the item, UnsupportedParameter.
    """
    messages: list[Message] = []
    thoughts = ""
    shown: list[Part] = []  # by outputs, which follow one another
    for i, item in enumerate(items):
        at = f"{where}.{i}"
        kind = item.get("type", "message")
        if shown and kind not in _OUTPUTS:
            messages.append(_shown(shown))
            shown = []
        if kind == "reasoning":
            thoughts = _thoughts(item)
            continue
        if kind == "message":
            messages.append(normalize_message(item, at))
        elif kind in ("function_call", "custom_tool_call"):
            _require_text(item, at, "call_id", "name")
            call = _call(item, at, tools)
            if messages and messages[-1]["role"] == "assistant":
                messages[-1].setdefault("tool_calls", []).extend(call["tool_calls"])
            else:
                messages.append(call)
        elif kind in _OUTPUTS:
            _require_text(item, at, "call_id")
            output, pictures = split_pictures(item.get("output"), f"{at}.output", "input_image", read_picture)
            shown += pictures
            result = {"role": "tool", "content": output, "tool_call_id": item.get("call_id")}
            messages.append(_in_place(result, at, "content", "output"))
        else:
            raise UnsupportedParameter(
                f"{at}.type", "Send messages, calls of functions and custom tools, and their outputs."
            )
        if thoughts and messages[-1]["role"] == "assistant":
            messages[-1].setdefault("reasoning_content", thoughts)
        thoughts = ""
    if shown:
        messages.append(_shown(shown))
    if not messages:
        raise InvalidRequest(f"'{where}' has no message.", where)
    return messages


def _shown(pictures: list[Part]) -> Message:
    return with_parts(Message(role="user", content=""), pictures)


def _thoughts(item: Mapping[str, Any]) -> str:
    """Of what clients echo; summaries and what is encrypted are of other models."""
    parts = item.get("content")
    texts = (
        [part.get("text") for part in parts if isinstance(part, Mapping)] if isinstance(parts, list) else []
    )
    return "\n".join(text for text in texts if isinstance(text, str))


def _require_text(item: Mapping[str, Any], at: str, *fields: str) -> None:
    for field in fields:
        if not isinstance(item.get(field), str):
            raise InvalidRequest(f"'{at}.{field}' must be a text.", f"{at}.{field}")


def _call(item: Mapping[str, Any], at: str, tools: SentTools) -> Message:
    arguments = item.get("arguments")
    if item.get("type") == "custom_tool_call":
        _require_text(item, at, TEXT)
        arguments = {TEXT: item[TEXT]}
    function = {"name": tools.known_as(item), "arguments": arguments}
    call = {"id": item.get("call_id"), "function": function}
    return _in_place({"role": "assistant", "tool_calls": [call]}, at, "tool_calls.0.function.", "")


def _in_place(message: Mapping[str, Any], at: str, name: str, sent: str) -> Message:
    """`normalize_message`, whose errors call the field `name` what the client called it."""
    try:
        return normalize_message(message, at)
    except InvalidRequest as error:
        error.args = (str(error).replace(f"{at}.{name}", f"{at}.{sent}").replace(".tool_calls.0", ""),)
        error.param = (error.param or at).replace(f"{at}.{name}", f"{at}.{sent}").replace(".tool_calls.0", "")
        raise


def _includes(body: ResponseRequest) -> list[str]:
    for i, name in enumerate(body.include or []):
        if name not in _INCLUDES:
            raise UnsupportedParameter(f"include.{i}", f"Leave it out, or send {LOGPROBS}.")
    return body.include or []


def _format(body: ResponseRequest) -> dict[str, Any] | None:
    if body.text is not None and body.text.verbosity not in (None, "medium"):
        raise UnsupportedParameter("text.verbosity", "Leave it out, or send medium.")
    form = body.text.format if body.text is not None else None
    if form is None or form.get("type") != "json_schema":
        return form
    return {"type": "json_schema", "json_schema": form}


def _choice(choice: str | dict[str, Any] | None, tools: SentTools) -> Any:
    if not isinstance(choice, dict):
        return choice
    if choice.get("type") in ("function", "custom"):
        return {"type": "function", "function": {"name": tools.known_as(choice)}}
    if choice.get("type") == "allowed_tools":
        named = choice.get("tools")
        if isinstance(named, list):
            named = [_function(tool, tools) for tool in named if not is_search(tool)]
        return {"type": "allowed_tools", "allowed_tools": {"mode": choice.get("mode"), "tools": named}}
    raise UnsupportedParameter("tool_choice.type", "Send 'function', 'custom' or 'allowed_tools'.")


def _function(tool: Any, tools: SentTools) -> Any:
    return {"function": {"name": tools.known_as(tool)}} if isinstance(tool, dict) else tool


def listed_items(
    response_id: str, items: Sequence[dict[str, Any]], query: Mapping[str, str]
) -> dict[str, Any]:
    """The answer of `/responses/{id}/input_items`: `order`, `limit` and `after` as lists have them.

    Items that came without an id get one. Raises: InvalidRequest.
    """
    named = [
        {"type": "message", **item, "id": item.get("id") or f"{response_id}_{i}"}
        for i, item in enumerate(items)
    ]
    return page_of(named, query)

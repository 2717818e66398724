"""The API's messages, made into what chat templates take: a role and one string each."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import orjson

from llm_serving.chat.pictures import TYPES, Part, read_picture, text_in
from llm_serving.errors import InvalidRequest, UnsupportedParameter

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
# Part type → its field; `/responses` has names of its own.
_TEXT_PARTS = {"text": "text", "refusal": "refusal", "input_text": "text", "output_text": "text"}
_UNSUPPORTED = ("audio",)
MAX_CALLS = 128  # of functions, in one message
MAX_CALL_DEPTH = 64  # of arguments
# The form OpenAI documents; it leaves no room for special tokens, which templates would let through.
_NAME = re.compile(r"[^\s<|\\/>]{1,64}")


class _Required(TypedDict):
    role: str
    content: str


class Message(_Required, total=False):
    """One turn, as templates see it."""

    parts: list[Part]  # where there are pictures: these and the texts, of which `content` is all
    name: str
    tool_calls: list[dict[str, Any]]  # type, id, and function with name and arguments, an object
    tool_call_id: str
    reasoning_content: str  # the assistant's thoughts, for templates that show them again


def normalize_messages(messages: Sequence[Any]) -> list[Message]:
    """Messages of a request body → messages for a template.

    A message without a role is the user's; `developer` is `system` under a newer name; `function` and
    `function_call` are `tool` and `tool_calls` under older ones; text parts are joined by line ends. What
    clients echo from earlier answers and no template needs is left out.

    Raises: InvalidRequest that names the field (`messages.<i>.content.<j>`), UnsupportedParameter.
    """
    if not messages:
        raise InvalidRequest("There must be at least one message.", "messages")
    return [normalize_message(message, f"messages.{i}") for i, message in enumerate(messages)]


def with_system_prompt(messages: Sequence[Message], system_prompt: str) -> list[Message]:
    """Put the default system prompt first, unless it is empty or the messages bring their own."""
    if not system_prompt or any(message["role"] == "system" for message in messages):
        return list(messages)
    return [Message(role="system", content=system_prompt), *messages]


def is_within(value: Any, depth: int) -> bool:
    """Whether `value`, of JSON, is nested at most `depth` levels deep."""
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return not items or (depth > 0 and all(is_within(item, depth - 1) for item in items))


def join_contents(messages: Sequence[Mapping[str, Any]], image: str = "") -> str:
    """The prompt for a model without a chat template: the contents, one after the other.

    What stands for a picture is `image`.
    """
    contents = (message["content"] for message in messages)
    return "\n".join(
        content if isinstance(content, str) else "\n".join(part.get("text", image) for part in content)
        for content in contents
    )


def normalize_message(message: Any, where: str) -> Message:
    """One message, which stands at `where` in the body; as `normalize_messages`."""
    if not isinstance(message, Mapping):
        raise InvalidRequest(f"'{where}' must be an object with 'role' and 'content'.", where)
    role = message.get("role")
    if role is None:
        role = "user"
    if role not in ROLES:
        raise InvalidRequest(
            f"'{where}.role' is {str(role)[:40]!r}; it must be one of {', '.join(ROLES)}.", f"{where}.role"
        )
    for field in _UNSUPPORTED:
        if message.get(field):
            raise UnsupportedParameter(f"{where}.{field}")
    parts = _parts(message.get("content"), role, f"{where}.content")
    out = Message(
        role={"developer": "system", "function": "tool"}.get(role, role),
        content=parts if isinstance(parts, str) else text_in(parts),
    )
    if not isinstance(parts, str) and not all(isinstance(part, str) for part in parts):
        out["parts"] = parts
    name = message.get("name")
    if name is not None:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise InvalidRequest(
                f"'{where}.name' must be 1 to 64 characters without space, '<', '>', '|', '/' or '\\'.",
                f"{where}.name",
            )
        out["name"] = name
    called = [field for field in ("tool_calls", "function_call") if message.get(field)]
    if called:
        at = f"{where}.{called[-1]}"
        if role != "assistant":
            raise InvalidRequest(f"'{at}' belongs to the assistant.", at)
        if len(called) > 1:
            raise InvalidRequest(f"'{at}' is an older name of 'tool_calls'. Send one of them.", at)
        calls = message[called[0]]
        out["tool_calls"] = _calls(calls, at) if called == ["tool_calls"] else [_function(calls, at, at)]
    thoughts = message.get("reasoning_content") or message.get("reasoning")
    if thoughts and role == "assistant":
        if not isinstance(thoughts, str):
            raise InvalidRequest(f"'{where}.reasoning_content' must be a text.", f"{where}.reasoning_content")
        out["reasoning_content"] = thoughts
    call_id = message.get("tool_call_id")
    if call_id is not None:
        if not isinstance(call_id, str):
            raise InvalidRequest(f"'{where}.tool_call_id' must be a text.", f"{where}.tool_call_id")
        out["tool_call_id"] = call_id
    return out


def _calls(calls: Any, where: str) -> list[dict[str, Any]]:
    if not isinstance(calls, list) or len(calls) > MAX_CALLS:
        raise InvalidRequest(f"'{where}' must be a list of up to {MAX_CALLS} calls.", where)
    return [_call(call, f"{where}.{i}") for i, call in enumerate(calls)]


def _call(call: Any, where: str) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, Mapping) else None
    found = _function(function, where, f"{where}.function")
    return {**found, "id": call["id"]} if isinstance(call.get("id"), str) else found


def _function(function: Any, where: str, at: str) -> dict[str, Any]:
    """A call without an id of the function that stands at `at`."""
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise InvalidRequest(f"'{where}' must be an object with a function's 'name' and 'arguments'.", where)
    arguments = function.get("arguments")
    if isinstance(arguments, str):  # as OpenAI has them
        try:
            arguments = orjson.loads(arguments) if arguments.strip() else {}
        except orjson.JSONDecodeError:
            arguments = None
    if not isinstance(arguments, dict) or not is_within(arguments, MAX_CALL_DEPTH):
        raise InvalidRequest(
            f"'{at}.arguments' must be JSON, an object, at most {MAX_CALL_DEPTH} levels deep.",
            f"{at}.arguments",
        )
    return {"type": "function", "function": {"name": function["name"], "arguments": arguments}}


def with_text_before(message: Message, text: str) -> Message:
    """A message of the same role that says `text` first."""
    out = Message(role=message["role"], content=f"{text}{message['content']}")
    if "parts" in message:
        out["parts"] = [text, *message["parts"]]
    return out


def _parts(content: Any, role: str, where: str) -> str | list[Part]:
    if isinstance(content, str):
        return content
    if content is None and role == "assistant":  # clients echo answers that had none
        return ""
    if not isinstance(content, list):
        kind = "missing" if content is None else f"of type {type(content).__name__}"
        raise InvalidRequest(f"'{where}' is {kind}; it must be a text or a list of text parts.", where)
    return [_part(part, role, f"{where}.{j}") for j, part in enumerate(content)]


def _part(part: Any, role: str, where: str) -> Part:
    if not isinstance(part, Mapping):
        raise InvalidRequest(f"'{where}' must be an object with 'type' and 'text'.", where)
    kind = part.get("type")
    if kind in TYPES and role == "user":
        return read_picture(part, where)
    field = _TEXT_PARTS.get(kind) if isinstance(kind, str) else None
    if field is None:
        raise InvalidRequest(
            f"'{where}' is of type {str(kind)[:40]!r}; parts are of type 'text', or 'image_url' of the user.",
            where,
        )
    text = part.get(field)
    if not isinstance(text, str):
        raise InvalidRequest(f"'{where}.{field}' must be a text.", f"{where}.{field}")
    return text

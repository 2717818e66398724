"""`/messages`: body → the chat request that it is, in other words.

Errors name the fields as the client sent them: `tools.0.input_schema`, not `tools.0.function.parameters`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from llm_serving.api.convert.images import anthropic_picture, split_pictures, with_parts
from llm_serving.api.deps import validate
from llm_serving.api.schemas.chat import ChatFields
from llm_serving.api.schemas.messages import MessagesRequest
from llm_serving.chat.messages import MAX_CALL_DEPTH, Message, is_within, normalize_message
from llm_serving.chat.pictures import Part, text_in
from llm_serving.errors import InvalidRequest, UnsupportedParameter

# How the chat API calls what is called otherwise here; see `convert/renaming.py`.
NAMES = (
    (re.compile(r"max_completion_tokens"), "max_tokens"),
    (re.compile(r"response_format(\.json_schema)?"), "output_config.format"),
    (re.compile(r"reasoning_effort"), "thinking"),
    (re.compile(r"continue_final_message"), "messages"),
    (re.compile(r"thinking_token_budget"), "thinking.budget_tokens"),
    (re.compile(r"\bsystem\.content"), "system"),
    (re.compile(r"\.content\.tool_calls\b"), ".content"),
    (re.compile(r"(?<=')stop(?=[.'])|^stop(?=\.|$)"), "stop_sequences"),
    (re.compile(r"(tools\.\d+)\.function\.parameters"), r"\1.input_schema"),
    (re.compile(r"(tools\.\d+|tool_choice)\.function\."), r"\1."),
)
_ROLES = ("user", "assistant", "system")
_BILLING = "x-anthropic-billing-header:"  # what Claude Code tells Anthropic's server of itself, no prompt


def to_chat(body: MessagesRequest) -> ChatFields:
    """The same request of the chat API, but for its messages, which `to_messages` makes.

    Raises: InvalidRequest.
    """
    choice, are_many = _choice(body.tool_choice)
    thinking, goes_on = body.thinking, _begins_answer(body.messages[-1])
    return validate(
        ChatFields,
        {
            "model": body.model,
            "stream": body.stream,
            "max_completion_tokens": body.max_tokens,
            "temperature": body.temperature,
            "top_p": body.top_p,
            "top_k": body.top_k,
            "stop": body.stop_sequences,
            "tools": [_tool(tool, f"tools.{i}") for i, tool in enumerate(body.tools or [])],
            "tool_choice": choice,
            "parallel_tool_calls": are_many,
            "reasoning_effort": None if goes_on and is_effort_a_wish(body) else body.effort(),
            "thinking_token_budget": thinking and thinking.budget_tokens,
            "continue_final_message": goes_on,
            "response_format": _format(body),
        },
    )


def is_effort_a_wish(body: MessagesRequest) -> bool:
    """Whether the model need not think: only where `thinking` is on or off it is told to, or not to."""
    return body.thinking is None or body.thinking.type == "adaptive"


def _format(body: MessagesRequest) -> dict[str, Any] | None:
    form = body.output_config.format if body.output_config is not None else None
    if form is None:
        return None
    if form.get("type") != "json_schema":
        raise InvalidRequest(
            "'output_config.format.type' must be 'json_schema'.", "output_config.format.type"
        )
    return {"type": "json_schema", "json_schema": {"name": "output", "schema": form.get("schema")}}


def to_messages(body: MessagesRequest) -> list[Message]:
    """The system prompt first, then the turns; results of functions are messages of their own.

    Raises: InvalidRequest that names the block, UnsupportedParameter.
    """
    messages: list[Message] = []
    if (system := _without_billing(body.system)) is not None:
        messages.append(normalize_message({"role": "system", "content": system}, "system"))
    for i, message in enumerate(body.messages):
        at = f"messages.{i}"
        if not isinstance(message, Mapping):
            raise InvalidRequest(f"'{at}' must be an object with 'role' and 'content'.", at)
        if message.get("role") not in _ROLES:
            raise InvalidRequest(f"'{at}.role' must be one of {', '.join(_ROLES)}.", f"{at}.role")
        content = message.get("content")
        if isinstance(content, list):
            messages += _turn(message["role"], content, f"{at}.content")
        else:
            if not isinstance(content, str):
                raise InvalidRequest(f"'{at}.content' must be a text or a list of blocks.", f"{at}.content")
            messages.append(Message(role=message["role"], content=content))
    if _begins_answer(body.messages[-1]):
        _check_beginning(messages[-1], f"messages.{len(body.messages) - 1}.content")
    return messages


def _without_billing(system: Any) -> Any:
    """It changes from one request to the next, and no cached prompt would go on with it."""
    if not isinstance(system, list):
        return system
    return [block for block in system if not _is_billing(block)] or None


def _is_billing(block: Any) -> bool:
    text = block.get("text") if isinstance(block, Mapping) else None
    return isinstance(text, str) and text.startswith(_BILLING)


def _begins_answer(last: Any) -> bool:
    """Whether the last message is the assistant's: the answer goes on with it."""
    return isinstance(last, Mapping) and last.get("role") == "assistant"


def _check_beginning(message: Message, at: str) -> None:
    if "tool_calls" in message:
        raise InvalidRequest(f"'{at}' calls functions, and no message has their results.", at)
    if message["content"] != message["content"].rstrip():
        raise InvalidRequest(f"'{at}' must not end with white space where the answer goes on with it.", at)


def _turn(role: str, blocks: list[Any], at: str) -> list[Message]:
    """One message of blocks; results go before the text, where templates expect them."""
    results: list[Message] = []
    shown: list[Part] = []  # of results
    parts: list[Part] = []
    thoughts: list[str] = []
    calls: list[dict[str, Any]] = []
    for j, block in enumerate(blocks):
        where = f"{at}.{j}"
        kind = block.get("type") if isinstance(block, Mapping) else None
        if kind == "text":
            _require_text(block, where, "text")
            parts.append(block["text"])
        elif kind == "image" and role == "user":
            parts.append(anthropic_picture(block, where))
        elif kind == "tool_use" and role == "assistant":
            calls.append(_call(block, where))
        elif kind == "tool_result" and role == "user":
            result, pictures = _result(block, where)
            results.append(result)
            shown += pictures
        elif kind == "thinking" and role == "assistant":
            _require_text(block, where, "thinking")
            thoughts.append(block["thinking"])
        elif kind != "redacted_thinking" or role != "assistant":  # of other models; nobody here can read it
            raise InvalidRequest(
                f"'{where}' must be an object of type text, or tool_use of the assistant, or tool_result or "
                "image of the user: no other blocks are read.",
                where,
            )
    parts = [*shown, *parts]
    if not parts and not calls and results:
        return results
    turn: dict[str, Any] = {"role": role, "content": text_in(parts)}
    if calls:
        turn["tool_calls"] = calls
    if thoughts:
        turn["reasoning_content"] = "\n".join(thoughts)
    return [*results, with_parts(normalize_message(turn, at), parts)]


def _call(block: Mapping[str, Any], where: str) -> dict[str, Any]:
    _require_text(block, where, "id")
    _require_text(block, where, "name")
    if not isinstance(block.get("input"), dict) or not is_within(block["input"], MAX_CALL_DEPTH):
        raise InvalidRequest(
            f"'{where}.input' must be an object, at most {MAX_CALL_DEPTH} levels deep.", f"{where}.input"
        )
    return {"id": block["id"], "function": {"name": block["name"], "arguments": block["input"]}}


def _result(block: Mapping[str, Any], where: str) -> tuple[Message, list[Part]]:
    """What a function gave, and its pictures."""
    _require_text(block, where, "tool_use_id")
    content, pictures = split_pictures(block.get("content"), f"{where}.content", "image", anthropic_picture)
    told = normalize_message({"content": "" if content is None else content}, where)["content"]
    if block.get("is_error"):
        told = f"Error: {told}"
    return Message(role="tool", content=told, tool_call_id=block["tool_use_id"]), pictures


def _require_text(block: Mapping[str, Any], where: str, field: str) -> None:
    if not isinstance(block.get(field), str):
        raise InvalidRequest(f"'{where}.{field}' must be a text.", f"{where}.{field}")


def _tool(tool: Any, at: str) -> dict[str, Any]:
    if not isinstance(tool, dict):
        raise InvalidRequest(f"'{at}' must be an object.", at)
    if tool.get("type") not in (None, "custom"):
        raise UnsupportedParameter(f"{at}.type", "This server knows tools with an 'input_schema'.")
    named = {"name": tool.get("name"), "parameters": tool.get("input_schema")}
    more = {key: tool[key] for key in ("description", "strict") if tool.get(key) is not None}
    return {"type": "function", "function": {**named, **more}}


def _choice(choice: dict[str, Any] | None) -> tuple[Any, bool]:
    """(as the chat API has it, whether there may be several calls)."""
    if choice is None:
        return None, True
    are_many = choice.get("disable_parallel_tool_use") is not True
    kind = choice.get("type")
    if kind == "tool":
        return {"type": "function", "function": {"name": choice.get("name")}}, are_many
    if kind not in ("auto", "any", "none"):
        raise InvalidRequest("'tool_choice.type' must be auto, any, tool or none.", "tool_choice.type")
    return "required" if kind == "any" else kind, are_many

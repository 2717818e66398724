"""How a model's template takes functions and calls, found out by rendering some."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from datetime import datetime
from enum import Enum
from hashlib import blake2b
from typing import Any, NamedTuple

from llm_serving.chat.call_ids import with_ids
from llm_serving.chat.messages import Message
from llm_serving.chat.notations import NOTATIONS
from llm_serving.chat.notations.end_finder import EndFinder
from llm_serving.chat.notations.hermes import HERMES
from llm_serving.chat.notations.notation import Call, Notation, first_of
from llm_serving.chat.single_calls import one_call_a_message
from llm_serving.chat.tools import Tool
from llm_serving.errors import TemplateError

_NAME, _VALUE, _ID, _RESULT = "get_probe", "probe 1", "probe0001", "probed 5"
_SHORT = 9  # characters of an id


class History(Enum):
    """What a template wants of calls that were made."""

    ARGUMENTS = "arguments"  # an object, as JSON has it
    JSON = "json"  # a text of JSON
    TEXT = "text"  # it knows no calls, or not beside a text: they are text of the assistant
    WORDS = "words"  # it knows neither functions nor calls, or not in a notation of ours


class Told(Enum):
    """By which name a template takes functions."""

    TOOLS = "tools"
    XML_TOOLS = "xml_tools"  # bare, as SmolLM3's first
    FUNCTIONS = "functions"  # a text, and the day, always: FireFunction


class Teaching(NamedTuple):
    """How a model is told of functions, and how it calls them then."""

    notation: Notation
    history: History
    shows_functions: bool = True  # else these are told in words
    told: Told = Told.TOOLS

    def inputs(self, definitions: Sequence[Any]) -> dict[str, Any]:
        """Functions as the template takes them."""
        bare = [each["function"] for each in definitions]
        if self.told is Told.FUNCTIONS:
            text = json.dumps(bare, indent=4, ensure_ascii=False)
            # Not the second: a turn's prompt begins with the turn before it, whose blocks are kept.
            return {"functions": text, "datetime": datetime.now().strftime("%Y-%m-%d")}
        if not definitions:
            return {}
        return {"xml_tools": bare} if self.told is Told.XML_TOOLS else {"tools": definitions}

    def messages(self, messages: Sequence[Message]) -> list[Message]:
        """The same conversation as the template takes it.

        Llama's shows one call a message; Mistral's wants ids of nine letters, Kimi's of the function's name;
        Gemma's puts a text that goes with calls behind their results, and leaves the turn closed; Command's
        leaves it out.
        """
        if self.notation.one_a_message:
            messages = one_call_a_message(messages)
        if self.notation.id_of is not None:
            messages = with_ids(messages, self.notation.id_of)
        return [self._message(message) for message in messages]

    def _message(self, message: Message) -> Message:
        out = Message(**message)
        if self.notation.short_ids and "tool_call_id" in message:
            out["tool_call_id"] = _short(message["tool_call_id"])
        if "tool_calls" in message:
            out["tool_calls"] = [self._call(call, i) for i, call in enumerate(message["tool_calls"])]
            if self.notation.text_is_thought and message["content"]:
                thoughts = filter(None, [message.get("reasoning_content"), message["content"]])
                out |= {"reasoning_content": "\n\n".join(thoughts), "content": ""}
        return out

    def _call(self, call: dict[str, Any], place: int) -> dict[str, Any]:
        out = {**call, "function": dict(call["function"])}
        if self.notation.short_ids:
            out["id"] = _short(call.get("id", str(place)))
        return out

    def guarded(self, message: dict[str, Any]) -> dict[str, Any]:
        """A message whose texts are guarded already, with its calls as the template takes them."""
        calls = message.get("tool_calls")
        if not calls or self.history in (History.ARGUMENTS, History.WORDS):
            return message
        functions = [call["function"] for call in calls]
        if self.history is History.JSON:
            texts = (json.dumps(function["arguments"], ensure_ascii=False) for function in functions)
            told = [
                {**call, "function": {**function, "arguments": text}}
                for call, function, text in zip(calls, functions, texts, strict=True)
            ]
            return {**message, "tool_calls": told}
        written = self.notation.write([Call(call["name"], call["arguments"]) for call in functions])
        plain = {name: value for name, value in message.items() if name != "tool_calls"}
        return {**plain, "content": f"{message['content']}{written}"}


IN_WORDS = Teaching(HERMES, History.WORDS)


def teaching_of(source: str, render: Callable[..., str], is_token: Callable[[str], bool]) -> Teaching:
    """By what a template holds, and by reading what it makes of a call, as an answer would be read.

    A template that shows functions and no calls leaves the vocabulary to tell; one that shows neither, but
    results, as DeepSeek R1's does with a call that has a text, holds the marks itself. One that loses calls
    beside a text gets them as text.
    """
    properties = {"key": {"type": "string", "description": _NAME}}
    tool = Tool(_NAME, _NAME, {"type": "object", "properties": properties})
    call = {"type": "function", "id": _ID, "function": {"name": _NAME, "arguments": {"key": _VALUE}}}
    asked = Message(role="user", content=_NAME[::-1])
    called = Message(role="assistant", content="", tool_calls=[call])
    result = Message(role="tool", content=_RESULT, tool_call_id=_ID)

    def shown(messages: Sequence[Any], **more: Any) -> str:
        try:
            return render(messages, **more)
        except TemplateError:
            return ""

    inputs = {
        each: Teaching(HERMES, History.TEXT, told=each).inputs([tool.definition()])
        for each in Told
        if each.value in source or each is Told.TOOLS
    }
    telling = (each for each, more in inputs.items() if _NAME in shown([asked], **more))
    told = next(telling, None)
    shows_functions, told = told is not None, told or Told.TOOLS

    def told_calls(history: History, content: str) -> str:
        """What a call beside a text becomes."""
        conversation = (asked, Message(**{**called, "content": content}), result)
        messages = [Teaching(HERMES, history).guarded(dict(message)) for message in conversation]
        return shown(messages) or shown(messages, **inputs[told])  # some always want functions

    texts = {history: told_calls(history, "") for history in (History.ARGUMENTS, History.JSON)}
    candidates = [each for each in NOTATIONS if all(sign in source for sign in each.signs)]
    for notation in candidates:
        for history, text in texts.items():
            if _is_read(text, notation, tool):
                keeps = notation.text_is_thought or _is_read(told_calls(history, _RESULT), notation, tool)
                return Teaching(notation, history if keeps else History.TEXT, shows_functions, told)
    if not any(texts.values()) or any(_VALUE in text for text in texts.values()):
        return IN_WORDS
    if not shows_functions:
        shows_results = all(_RESULT in text for text in texts.values())
        own = [each for each in candidates if each is not HERMES and is_token(each.open) and shows_results]
        return Teaching(own[0], History.TEXT, shows_functions=False) if own else IN_WORDS
    candidates += [each for each in NOTATIONS if is_token(each.open)]
    return Teaching(candidates[0], History.TEXT, told=told) if candidates else IN_WORDS


def _is_read(text: str, notation: Notation, tool: Tool) -> bool:
    """Whether the call of the probe is found."""
    opening = first_of(notation.openings([tool.name])).pattern + (r"|(?=\{)" if notation.is_first else "")
    name = tool.name + notation.behind_name if notation.behind_name else ""
    inside = (name + text[match.end() :] for match in re.finditer(opening, text))
    return any(_read_at(each, notation, tool) for each in inside)


def _read_at(inside: str, notation: Notation, tool: Tool) -> bool:
    end = EndFinder(notation).feed(inside)
    found = notation.read(inside[: max(0, end)].removesuffix(notation.close), {tool.name: tool})
    return found == [Call(_NAME, {"key": _VALUE})]


def _short(call_id: str) -> str:
    """An id as Mistral's templates want it: itself if it is one."""
    if len(call_id) == _SHORT and call_id.isalnum():
        return call_id
    return blake2b(call_id.encode("utf-8", "replace"), digest_size=5).hexdigest()[:_SHORT]

"""Functions and calls told in words, for templates that know neither, or not so that we could read them."""

from __future__ import annotations

import json
from collections.abc import Sequence

from llm_serving.chat.messages import Message, with_text_before
from llm_serving.chat.notations import hermes
from llm_serving.chat.notations.notation import Call, Notation
from llm_serving.chat.tools import Tool

_FUNCTIONS = """You may call functions to answer the user. Each is JSON here, with a schema of its arguments:
<tools>
{tools}
</tools>

"""
_JSON = """To call a function, write JSON with its name and its arguments between tags, and nothing after it:
<tool_call>
{"name": "the function's name", "arguments": {"an argument": "its value"}}
</tool_call>"""
_OTHER = "To call a function, write its name and its arguments like this, and nothing after it:\n"
_EXAMPLE = Call("the function's name", {"an argument": "its value"})


def told_functions(
    messages: Sequence[Message], tools: Sequence[Tool], notation: Notation, *, has_system: bool = True
) -> list[Message]:
    """The same conversation with functions, and how to call them, in the system prompt.

    Or before the first message if the template has none.
    """
    out = list(messages)
    if not tools:
        return out
    definitions = (json.dumps(tool.definition(), ensure_ascii=False) for tool in tools)
    example = _JSON if notation is hermes.HERMES else _OTHER + notation.write([_EXAMPLE])
    told = _FUNCTIONS.format(tools="\n".join(definitions)) + example
    if out and out[0]["role"] == "system":
        told = f"{out.pop(0)['content']}\n\n{told}"
    if has_system or not out:
        return [Message(role="system", content=told), *out]
    return [with_text_before(out[0], f"{told}\n\n"), *out[1:]]


def in_words(messages: Sequence[Message], tools: Sequence[Tool], *, has_system: bool = True) -> list[Message]:
    """The same conversation for a template that knows no functions: as `told_functions`.

    Calls become the assistant's text, results the user's.
    """
    out: list[Message] = []
    for message in messages:
        content = message["content"]
        if message["role"] == "tool":
            content = f"<tool_response>\n{content}\n</tool_response>"
            if out and out[-1]["role"] == "user" and out[-1]["content"].startswith("<tool_response>"):
                out[-1] = Message(role="user", content=f"{out[-1]['content']}\n{content}")
            else:
                out.append(Message(role="user", content=content))
            continue
        calls = [call["function"] for call in message.get("tool_calls", ())]
        written = hermes.write([Call(call["name"], call["arguments"]) for call in calls])
        plain = Message(**{**message, "content": "\n".join(filter(None, [content, written]))})
        plain.pop("tool_calls", None)
        out.append(plain)
    return told_functions(out, tools, hermes.HERMES, has_system=has_system)

"""Calls as Qwen3-Coder and Qwen3.5 write them, each argument on lines of its own.

<tool_call>
<function=NAME>
<parameter=KEY>
VALUE
</parameter>
</function>
</tool_call>
"""

from __future__ import annotations

from collections.abc import Mapping

from llm_serving.chat.notations.json_calls import read_json
from llm_serving.chat.notations.notation import Call
from llm_serving.chat.notations.tag_calls import TagStyle
from llm_serving.chat.tools import Tool

OPEN, CLOSE = "<tool_call>", "</tool_call>"
_STYLE = TagStyle(OPEN, CLOSE, has_lines=True)

read_tags = _STYLE.read


def read(text: str, tools: Mapping[str, Tool]) -> list[Call] | None:
    """What other models of the same makers write is read, too."""
    return read_tags(text, tools) or read_json(text)


TAGS = _STYLE.notation(read=read)

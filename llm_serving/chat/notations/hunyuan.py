"""Hunyuan 3's calls: GLM's pairs of tags, each a token with the same ending, in a section.

<tool_calls:opensource>
<tool_call:opensource>NAME<tool_sep:opensource>
<arg_key:opensource>KEY</arg_key:opensource>
<arg_value:opensource>VALUE</arg_value:opensource>
</tool_call:opensource>
</tool_calls:opensource>
"""

from __future__ import annotations

from llm_serving.chat.notations.tag_calls import TagStyle


def _tag(name: str) -> str:
    return f"<{name}:opensource>"


_TAGS = tuple(
    _tag(f"{slash}{name}")
    for name in ("tool_calls", "tool_call", "arg_key", "arg_value")
    for slash in ("", "/")
)
HUNYUAN3 = TagStyle(
    _tag("tool_calls"),
    _tag("/tool_calls"),
    function=_tag("tool_call"),
    named=_tag("tool_sep"),
    function_end=_tag("/tool_call"),
    key=_tag("arg_key"),
    value=f"{_tag('/arg_key')}\n{_tag('arg_value')}",
    value_end=_tag("/arg_value"),
    is_section=True,
    marks=(*_TAGS, _tag("tool_sep")),
).notation(signs=("<tool_calls{}>", "<tool_sep{}>", ":opensource"))  # its template puts tags together

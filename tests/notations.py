"""Small chat templates of our own, each with the markup of a family, and what its models write."""

from __future__ import annotations

from typing import Any, NamedTuple

from llm_serving.chat.notations.hermes import HERMES
from llm_serving.chat.notations.notation import Notation
from llm_serving.chat.notations.tags import TAGS
from llm_serving.chat.tools import Tool


def _template(told: str, call: str, around: tuple[str, str] = ("", ""), between: str = "") -> str:
    """`told` of each tool, `call` of each call of a message, in Jinja."""
    return (
        "{% for tool in tools or [] %}" + told + "{% endfor %}"
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
        "{% if m.tool_calls %}" + around[0] + "{% for c in m.tool_calls %}{% set f = c.function %}" + call
        + ("{% if not loop.last %}" + between + "{% endif %}" if between else "")
        + "{% endfor %}" + around[1] + "{% endif %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )  # fmt: skip


class Family(NamedTuple):
    """written: an answer with the call `weather(city="Rome", days=2, exact=True)` as the models write it."""

    notation: Notation
    template: str
    written: str


_JSON = '{"city": "Rome", "days": 2, "exact": true}'
_TOOL = "{{ tool | tojson }}"

FAMILIES = {
    "hermes": Family(
        HERMES,
        _template(_TOOL, "<tool_call>\n{{ f | tojson }}\n</tool_call>"),
        f'<tool_call>\n{{"name": "weather", "arguments": {_JSON}}}\n</tool_call>',
    ),
    "tags": Family(
        TAGS,
        _template(
            _TOOL,
            "\n<tool_call>\n<function={{ f.name }}>\n{% for k, v in f.arguments | items %}"
            "<parameter={{ k }}>\n{{ v if v is string else v | tojson }}\n</parameter>\n{% endfor %}"
            "</function>\n</tool_call>",
        ),
        "<tool_call>\n<function=weather>\n<parameter=city>\nRome\n</parameter>\n<parameter=days>\n2\n"
        "</parameter>\n<parameter=exact>\nTrue\n</parameter>\n</function>\n</tool_call>",
    ),
}

PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 12},
        "days": {"type": "integer"},
        "exact": {"type": "boolean"},
        "ratio": {"type": "number", "minimum": -9, "maximum": 9},
        "unit": {"enum": ["C", "F"]},
        "note": {"type": ["string", "null"], "maxLength": 9},
        "places": {"type": "array", "items": {"$ref": "#/$defs/place"}, "maxItems": 2},
    },
    "required": ["city", "days", "exact"],
    "additionalProperties": False,
    "$defs": {
        "place": {
            "type": "object",
            "properties": {"name": {"type": "string", "maxLength": 6}, "at": {"type": "null"}},
            "required": ["name"],
            "additionalProperties": False,
        }
    },
}
TOOLS = {
    "weather": Tool("weather", "", PARAMETERS),
    "now": Tool("now", "", {"type": "object", "properties": {}, "additionalProperties": False}),
    "get.any_thing-1": Tool("get.any_thing-1", "", {"type": "object", "properties": {}}),
}

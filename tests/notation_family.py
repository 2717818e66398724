"""A small chat template of our own with the markup of a family, and what its models write."""

from __future__ import annotations

from typing import NamedTuple

from llm_serving.chat.notations.notation import Notation


def template(told: str, call: str, around: tuple[str, str] = ("", ""), between: str = "") -> str:
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
    """written: an answer with the call `weather(city="Rome", days=2, exact=True)` as the models write it.

    said, said_before: how they write a text, alone and in front of calls.
    """

    notation: Notation
    template: str
    written: str
    said: str = "{}"
    said_before: str = "{}"


def listed(notation: Notation, call: str, written: str) -> Family:
    """Calls in a list between the notation's marks."""
    front, back = f"{notation.open}[", f"]{notation.close}"
    return Family(notation, template(TOOL, call, (front, back), ", "), f"{front}{written}{back}")


JSON = '{"city": "Rome", "days": 2, "exact": true}'
TOOL = "{{ tool | tojson }}"
NAMED = f'{{"name": "weather", "arguments": {JSON}}}'

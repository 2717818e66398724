"""Chat templates: the same text as transformers' renderer, template by template."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

templates = pytest.importorskip(
    "transformers.utils.chat_template_utils", reason="the parity suite needs torch; run it with: make parity"
)

from notations import FAMILIES, TOOLS  # noqa: E402

from llm_serving.chat.template import ChatTemplate  # noqa: E402

pytestmark = pytest.mark.parity

CALL = {
    "type": "function",
    "id": "123456789",
    "function": {"name": "weather", "arguments": {"city": "Zürich <b> & 'q' \"x\"", "days": 2}},
}
USER = {"role": "user", "content": "Hi <é>"}
CALLED = [USER, {"role": "assistant", "content": "", "tool_calls": [CALL]}, {"role": "tool", "content": "5"}]
TOLD = [tool.definition() for tool in TOOLS.values()]
# Of the language itself; `x` is what a message holds.
SNIPPETS = [
    "{{ x | tojson }}{{ x | tojson(indent=2, sort_keys=true) }}{{ x | tojson(separators=(',', ':')) }}",
    "{{ x | tojson(ensure_ascii=true) }}{{ x | tojson(true) }}{{ x | tojson(indent='--') }}",
    "{% generation %}{% set y = 1 %}{{ y }}{% endgeneration %}[{{ y }}]",
    "{% for m in messages %}{%- generation -%}  {{ loop.index }}  {%- endgeneration -%}  !{% endfor %}",
    "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m.role }}{% break %}{% endfor %}",
    "{{ documents }}|{{ tools }}|{{ none }}|{{ 1.0 }}|{{ missing }}|{{ continue_final_message is defined }}",
    "  {% if true %}\n  a\n  {% endif %}\n  b\n{{ strftime_now('%Y') }}{{ x | items | list }}",
    "{{ '<b>' }}{{ '<b>' | e }}{{ '%05d' | format(3) }}{{ '{}-{}'.format(1, 'b') }}{{ [3, 1] | sort }}",
]


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(("messages", "inputs"), [([USER], {}), ([USER], {"tools": TOLD}), (CALLED, {})])
def test_conversations(name: str, messages: list[Any], inputs: dict[str, Any]) -> None:
    source = FAMILIES[name].template
    names = {"functions": "[]", "datetime": "now"}
    (theirs,), _ = templates.render_jinja_template(
        [deepcopy(messages)], chat_template=source, add_generation_prompt=True, **names, **inputs
    )
    assert ChatTemplate(source).render(messages, **names, **inputs) == theirs


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_the_language(snippet: str) -> None:
    source = "{% set x = messages[0].x %}" + snippet
    messages = [{"role": "user", "x": {"b": 1, "a": [1, 2.0, None, True, "é<"]}}, {"role": "assistant"}]
    (theirs,), _ = templates.render_jinja_template(
        [deepcopy(messages)], chat_template=source, add_generation_prompt=True
    )
    assert ChatTemplate(source).render(messages) == theirs

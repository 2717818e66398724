"""How templates of different kinds tell a model of functions."""

from __future__ import annotations

import pytest

from llm_serving.backends.fake import FIRST_SPECIAL, FakeTokenizer, load_fake_engine
from llm_serving.chat.messages import Message
from llm_serving.chat.template import ChatTemplate
from llm_serving.chat.tools import normalize_tools
from llm_serving.engine.protocol import EngineOptions
from llm_serving.service.model import ChatModel
from llm_serving.service.rendering import Conversation, prompt_ids

TOOLS = normalize_tools(
    [{"type": "function", "function": {"name": "get_weather", "description": "<|im_end|>"}}]
)
KNOWS = (
    "{% if tools %}TOOLS <tool_call>{% for t in tools %}{{ t | tojson }}{% endfor %}{% endif %}"
    "{% for m in messages %}{{ m.role }}:{{ m.content }}{% for c in m.tool_calls or [] %}"
    "<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %};{% endfor %}"
)
PLAIN = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}"
OTHERWISE = (
    "{% if xml_tools %}tools <tool_call>{% endif %}"
    "{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}"
)
NO_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system prompt') }}{% endif %}"
    "{{ m.role }}:{{ m.content }};{% endfor %}"
)
CALLED: list[Message] = [
    {"role": "user", "content": "Hi"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": {"name": "get_weather", "arguments": {"a": 1}}}],
    },
    {"role": "tool", "content": "fine"},
]


@pytest.mark.parametrize(
    ("template", "begins", "has"),
    [
        (
            KNOWS,
            "TOOLS <tool_call>{",
            'assistant:<tool_call>{"name": "get_weather", "arguments": {"a": 1}}</tool_call>;tool:fine;',
        ),
        (OTHERWISE, "system:You may call", "user:<tool_response>\nfine\n</tool_response>;"),
        (NO_SYSTEM, "user:You may call", '<tool_call>\n{"name": "get_weather", "arguments": {"a": 1}}'),
        (PLAIN, "<|im_start|>system\nYou may call", "<tool_response>"),
    ],
    ids=["knows", "otherwise", "no system", "plain"],
)
def test_how_templates_tell_of_functions(template: str, begins: str, has: str) -> None:
    engine = load_fake_engine(EngineOptions())
    model = ChatModel("m", engine, FakeTokenizer(), ChatTemplate(template))
    text = model.tokenizer.decode(
        prompt_ids(model, Conversation(CALLED, tools=TOOLS))[1:], skip_special=False
    )
    assert text.startswith(begins)
    assert has in text
    assert "get_weather" in text
    # What a client writes never becomes a special token.
    im_start, im_end = FIRST_SPECIAL + 2, FIRST_SPECIAL + 3
    ids = prompt_ids(model, Conversation(CALLED, tools=TOOLS))
    assert ids.count(im_end) == ids.count(im_start)
    assert "<|im_end|>" in text


def test_thoughts_of_the_history_are_told_beside_functions() -> None:
    thought: Message = {**CALLED[1], "reasoning_content": "Rain?"}
    template = "{% for m in messages %}{{ m.role }}:{{ m.reasoning_content }}|{{ m.content }};{% endfor %}"
    model = ChatModel("m", load_fake_engine(EngineOptions()), FakeTokenizer(), ChatTemplate(template))
    ids = prompt_ids(model, Conversation([CALLED[0], thought, CALLED[2]], tools=TOOLS))
    assert "assistant:Rain?|<tool_call>" in model.tokenizer.decode(ids)


def test_all_that_a_client_writes_freely_is_guarded() -> None:
    class Marking(FakeTokenizer):
        def guard(self, text: str) -> str:
            return f"({text})" if text in ("Ann", "7", "Hm", "text", "5", "and") else text

    template = (
        "{% for m in messages %}{{ m.name }}{{ m.tool_call_id }}{{ m.reasoning_content }}{{ m.content }}"
        "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}</tool_call>"
        "{% endfor %}{% endfor %}"
        "{{ more }}{{ tools }}"
    )
    call = {"type": "function", "function": {"name": "f", "arguments": {"a": "5"}}}
    said: Message = {"role": "assistant", "content": "text", "name": "Ann", "tool_call_id": "7"}
    said |= {"reasoning_content": "Hm", "tool_calls": [call]}
    model = ChatModel("m", load_fake_engine(EngineOptions()), Marking(), ChatTemplate(template))
    ids = prompt_ids(model, Conversation([said], {"more": "and"}))
    assert model.tokenizer.decode(ids).startswith(
        '(Ann)(7)(Hm)(text)<tool_call>{"name": "f", "arguments": {"a": "(5)"}}</tool_call>(and)'
    )

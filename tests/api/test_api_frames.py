"""Answers made of messages with headers and ends, in process: a scripted model for each family."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fake_server import data_of, open_client
from notation_family import JSON
from notations import FAMILIES, TOOLS
from thinker import ASKED, thinker

pytestmark = pytest.mark.anyio

WEATHER = {"city": "Rome", "days": 2, "exact": True}
FUNCTIONARY, SOLAR = FAMILIES["functionary 3.2"], FAMILIES["solar open"]
GIGACHAT = FAMILIES["gigachat 3.0"]
KIMI, MUSE = FAMILIES["kimi 3"], FAMILIES["muse"]
OPENED = KIMI.template + "{% if add_generation_prompt %}{{ open_tag('think') }}{% endif %}"
TEXT = "<|open|>response<|sep|>Hello<|close|>response<|sep|>"
BEHIND = "<|eom|><|start|>assistant"
REPLIES: dict[str, tuple[str, str, str, str | None, list[Any]]] = {
    "functionary, text": (FUNCTIONARY.template, "all\nHello >>> all", "", "Hello >>> all", []),
    "functionary, text and a call": (
        FUNCTIONARY.template,
        f"all\nHello\n>>>weather\n{JSON}",
        "",
        "Hello",
        [WEATHER],
    ),
    "functionary, calls": (FUNCTIONARY.template, f"weather\n{JSON}>>>now\n{{}}", "", None, [WEATHER, {}]),
    "functionary, an empty text": (FUNCTIONARY.template, "all\n>>>now\n{}", "", None, [{}]),
    "solar, marks in arguments": (
        SOLAR.template,
        SOLAR.written.replace("Rome", "<|end|>"),
        "",
        None,
        [{**WEATHER, "city": "<|end|>"}],
    ),
    "gigachat, text": (GIGACHAT.template, "Hello<|message_sep|>", "", "Hello", []),
    "gigachat, a call": (
        GIGACHAT.template,
        f"Hello{GIGACHAT.written}<|message_sep|>",
        "",
        "Hello",
        [WEATHER],
    ),
    "functionary, no header": (FUNCTIONARY.template, '{"a": 1}', "", '{"a": 1}', []),
    "functionary, no function": (FUNCTIONARY.template, "all\n>>>other\n{}", "", ">>>other\n{}", []),
    "solar, text": (SOLAR.template, "<|content|>Hello<|end|>", "", "Hello", []),
    "solar, thoughts": (
        SOLAR.template,
        "<|think|>Hm.<|end|><|begin|>assistant<|content|>Hello<|end|>",
        "Hm.",
        "Hello",
        [],
    ),
    "solar, a call": (
        SOLAR.template,
        f"<|think|>Hm.<|end|><|begin|>assistant{SOLAR.written}",
        "Hm.",
        None,
        [WEATHER],
    ),
    "kimi, text": (OPENED, f"Hm.<|close|>think<|sep|>{TEXT}<|close|>message<|sep|>", "Hm.", "Hello", []),
    "kimi, a call": (
        OPENED,
        f"Hm.<|close|>think<|sep|>{TEXT}{KIMI.written}<|close|>message<|sep|>",
        "Hm.",
        "Hello",
        [WEATHER],
    ),
    "muse, text": (MUSE.template, " to=user<|message|>Hello", "", "Hello", []),
    "muse, thoughts": (
        MUSE.template,
        f" to=self<|message|>Hm.{BEHIND} to=user<|message|>Hello<|eot|>",
        "Hm.",
        "Hello",
        [],
    ),
    "muse, a text and a call": (
        MUSE.template,
        f" to=user<|message|>Hello<|eom|>{MUSE.written}",
        "",
        "Hello",
        [WEATHER],
    ),
    "muse, a call that is quoted": (
        MUSE.template,
        " to=user<|message|><atem:function_calls>",
        "",
        "<atem:function_calls>",
        [],
    ),
}


@pytest.mark.parametrize("name", REPLIES)
async def test_headers_and_ends_are_no_part_of_answers(name: str) -> None:
    template, reply, thoughts, content, calls = REPLIES[name]
    body = {**ASKED, "max_tokens": 900, "tools": [tool.definition() for tool in TOOLS.values()]}
    async with open_client(thinker(template, reply)) as client:
        told = (await client.post("/chat/completions", json=body)).json()["choices"][0]["message"]
        assert (told.get("reasoning_content", ""), told["content"]) == (thoughts, content)
        found = [call["function"]["arguments"] for call in told.get("tool_calls", [])]
        assert list(map(json.loads, found)) == calls
        chunks = data_of((await client.post("/chat/completions", json={**body, "stream": True})).text)[:-1]
        deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
        assert "".join(delta.get("reasoning", "") for delta in deltas) == thoughts
        assert "".join(delta.get("content") or "" for delta in deltas) == (content or "")
        streamed = [call for delta in deltas for call in delta.get("tool_calls", [])]
        assert [call["function"]["arguments"] for call in streamed] == found
        if not calls:
            plain = (await client.post("/chat/completions", json=ASKED)).json()["choices"][0]["message"]
            assert plain == told


async def test_a_text_that_is_continued_has_no_header() -> None:
    turns = [{"content": "Hi"}, {"role": "assistant", "content": "all"}]
    body = {"messages": turns, "continue_final_message": True}
    async with open_client(thinker(FUNCTIONARY.template, "\nHello")) as client:
        told = (await client.post("/chat/completions", json=body)).json()["choices"][0]["message"]
        assert told["content"] == "\nHello"


async def test_efforts_go_by_each_templates_name() -> None:
    asks = "{% if thinking_effort is undefined %}{% endif %}{{ thinking_effort }}"
    for template, effort, shown in (
        (OPENED + asks, "medium", "high"),
        (MUSE.template + "{{ reasoning_strength if reasoning_strength is defined }}", "max", "high"),
    ):
        async with open_client(thinker(template)) as client:
            prompt = (await client.post("/apply-template", json={**ASKED, "reasoning_effort": effort})).json()
            assert prompt["prompt"].endswith(shown)
    async with open_client(thinker(MUSE.template)) as client:
        answer = await client.post("/chat/completions", json={**ASKED, "reasoning_effort": "none"})
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "reasoning_effort"

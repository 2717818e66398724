"""Thoughts in chat completions, in process: a scripted model that thinks."""

from __future__ import annotations

from typing import Any

import pytest
from fake_server import Client, data_of, open_client
from thinker import ASKED, OPENED, THOUGHT, thinker

from llm_serving.api.convert.reasoning import ReasoningReader
from llm_serving.chat.reasoning import THINK, Reasoning
from llm_serving.engine.async_engine import AsyncEngine

pytestmark = pytest.mark.anyio


async def message_of(client: Client, **fields: Any) -> dict[str, Any]:
    response = await client.post("/chat/completions", json={**ASKED, **fields})
    assert response.status_code == 200, response.text
    message: dict[str, Any] = response.json()["choices"][0]["message"]
    return message


async def streamed(client: Client, **fields: Any) -> tuple[str, str]:
    """(thoughts, content) of a stream; thoughts come under both names and before the content."""
    response = await client.post("/chat/completions", json={**ASKED, "stream": True, **fields})
    thoughts, content = "", ""
    for chunk in data_of(response.text)[:-1]:
        delta = chunk["choices"][0]["delta"]
        assert delta.get("reasoning_content") == delta.get("reasoning")
        assert not (content and "reasoning" in delta)
        thoughts += delta.get("reasoning_content", "")
        content += delta.get("content", "")
    return thoughts, content


TEXTS = {
    "thoughts": (THOUGHT, "Hm, well.", "Hello <think>."),
    "none": (" Hello </think>", "", " Hello </think>"),
    "empty": ("<think>\n\n</think>\n\nHello", "", "Hello"),
    "no end": ("<think>Hm </thin", "Hm </thin", ""),
    "no answer": ("<think>Hm</think>\n", "Hm", ""),
    "almost": ("<thinking> <think>", "", "<thinking> <think>"),
    "only a beginning": (" <thi", "", " <thi"),
    "blanks": (" \n", "", " \n"),
    "tags in thoughts": ("<think>a <b> </i> <think></think>c", "a <b> </i> <think>", "c"),
}


@pytest.mark.parametrize("case", TEXTS)
async def test_thoughts_are_told_apart(case: str) -> None:
    reply, thoughts, content = TEXTS[case]
    async with open_client(thinker(reply=reply)) as client:
        message = await message_of(client)
        assert message["content"] == content
        assert (message.get("reasoning_content"), message.get("reasoning")) == (thoughts or None,) * 2
        assert await streamed(client) == (thoughts, content)


@pytest.mark.parametrize("case", TEXTS)
@pytest.mark.parametrize("step", [1, 2, 3, 5, 100])
def test_however_a_text_is_cut(case: str, step: int) -> None:
    reply, thoughts, content = TEXTS[case]
    for reasoning in Reasoning:
        reader = ReasoningReader(THINK, reasoning)
        pieces = [reply[i : i + step] for i in range(0, len(reply), step)]
        read = [reader.feed(piece) for piece in pieces] + [reader.feed("", is_last=True)]
        found = "".join(part[0] for part in read), "".join(part[1] for part in read)
        if reasoning is Reasoning.NONE:
            assert found == ("", reply)
        elif reasoning is Reasoning.MAY_OPEN or reply.startswith("<think>"):
            assert found == (thoughts, content)


async def test_a_prompt_may_have_begun_the_thoughts() -> None:
    async with open_client(thinker(OPENED, "Hm.</think> Hello")) as client:
        message = await message_of(client)
        assert (message["reasoning"], message["content"]) == ("Hm.", "Hello")
        assert await streamed(client) == ("Hm.", "Hello")


async def test_what_is_thought_is_counted() -> None:
    async with open_client(thinker(reply="<think>12345</think>67")) as client:
        usage = (await client.post("/chat/completions", json=ASKED)).json()["usage"]
        assert usage["completion_tokens_details"] == {"reasoning_tokens": 20}  # bytes, with the tags
        body = {**ASKED, "stream": True, "stream_options": {"include_usage": True}, "n": 2}
        chunks = data_of((await client.post("/chat/completions", json=body)).text)
        assert chunks[-2]["usage"]["completion_tokens_details"] == {"reasoning_tokens": 40}
    async with open_client(behaviour={"reply": THOUGHT}) as client:  # without a template
        body = (await client.post("/chat/completions", json=ASKED)).json()
        assert body["choices"][0]["message"] == {"role": "assistant", "content": THOUGHT}
        assert "completion_tokens_details" not in body["usage"]


async def test_an_effort_switches_thoughts_off() -> None:
    async with open_client(thinker()) as client:
        assert await streamed(client, reasoning_effort="high") == ("Hm, well.", "Hello <think>.")
        for off in ({"reasoning_effort": "none"}, {"chat_template_kwargs": {"enable_thinking": False}}):
            assert (await message_of(client, **off))["content"] == THOUGHT  # the script says it all the same
        counts = [
            (await client.post("/chat/completions/input_tokens", json={**ASKED, **fields})).json()
            for fields in ({}, {"reasoning_effort": "none"})
        ]
        # Both tags, and four line ends.
        assert counts[1]["input_tokens"] - counts[0]["input_tokens"] == 6


STRIPPED = (
    "{% for m in messages %}{{ m.content.split('</think>')[-1] }};{% endfor %}"  # Qwen3-Instruct-2507's
)


@pytest.mark.parametrize("template", [OPENED, STRIPPED])
async def test_an_effort_of_none_without_a_switch_is_an_empty_thought(template: str) -> None:
    async with open_client(thinker(template, "Hello")) as client:
        off = {"messages": ASKED["messages"], "reasoning_effort": "none"}
        assert await message_of(client, **off) == {"role": "assistant", "content": "Hello"}
        assert await streamed(client, **off) == ("", "Hello")
        assert (await message_of(client, **off, choice=["yes"]))["content"] == "yes"
        prompt = (await client.post("/apply-template", json=off)).json()["prompt"]
        assert prompt.removeprefix("Hi;").removeprefix("</think>") == "<think>\n\n</think>\n\n"
        counts = [
            (await client.post("/tokenize", json={**off, "reasoning_effort": effort})).json()["count"]
            for effort in ("none", "low")
        ]
        # The tags, of which one may be there, and line ends, too.
        assert counts[0] - counts[1] == (5 if template is OPENED else 6)
        for more in ({"continue_final_message": True}, {"add_generation_prompt": False}):
            turns = [*ASKED["messages"], {"role": "assistant", "content": "So"}]
            begun = await client.post("/apply-template", json={**off, "messages": turns, **more})
            assert "<think>\n\n" not in begun.json()["prompt"]


async def test_an_effort_and_a_template_input_must_agree() -> None:
    async with open_client(thinker()) as client:
        for effort, is_on in (("none", False), ("high", True)):
            body = {**ASKED, "reasoning_effort": effort}
            agreed = {**body, "chat_template_kwargs": {"enable_thinking": is_on}}
            assert (await client.post("/chat/completions", json=agreed)).status_code == 200
            response = await client.post(
                "/chat/completions", json={**body, "chat_template_kwargs": {"enable_thinking": not is_on}}
            )
            assert response.status_code == 400
            assert response.json()["error"]["param"] == "reasoning_effort"


async def test_thoughts_need_not_be_told() -> None:
    async with open_client(thinker()) as client:
        assert "reasoning" not in await message_of(client, include_reasoning=False)
        assert await streamed(client, include_reasoning=False) == ("", "Hello <think>.")


@pytest.mark.parametrize("budget", [0, 3])
async def test_a_budget_ends_thoughts(budget: int) -> None:
    async with open_client(thinker(OPENED, "Hello")) as client:
        message = await message_of(client, thinking_token_budget=budget)
        assert message.get("reasoning", "") == "Hello"[:budget]
        assert message["content"] == "Hello"  # the script begins anew behind what it did not say


async def test_a_bound_answer_follows_thoughts() -> None:
    call = {
        "type": "function",
        "function": {"name": "f", "parameters": {"type": "object", "additionalProperties": False}},
    }
    async with open_client(thinker(OPENED, "Hm.")) as client:
        bound = {"thinking_token_budget": 2}
        message = await message_of(client, choice=["yes"], **bound)
        assert (message["reasoning"], message["content"]) == ("Hm", "yes")
        schema = {"name": "a", "schema": {"const": {"a": 5}}}
        form = {"type": "json_schema", "json_schema": schema}
        assert await streamed(client, response_format=form, **bound) == ("Hm", '{"a": 5}')
        message = await message_of(client, tools=[call], tool_choice="required", **bound)
        assert message["reasoning"] == "Hm"
        assert message["tool_calls"][0]["function"] == {"name": "f", "arguments": "{}"}


async def test_stop_strings_count_in_the_answer_only() -> None:
    stops = {"stop": ["\n", "well", "<think>"]}
    async with open_client(thinker()) as client:
        assert await streamed(client, **stops) == ("Hm, well.", "Hello ")
        told = await client.post("/chat/completions", json={**ASKED, **stops})
        assert told.json()["choices"][0]["finish_reason"] == "stop"
    async with open_client(thinker(OPENED, "Hm, well.\n</think>\n\nYes, well.")) as client:
        assert await streamed(client, **stops) == ("Hm, well.", "Yes, ")


@pytest.mark.parametrize("asked", [{"thinking_token_budget": 2}, {"choice": ["yes"]}])
async def test_an_engine_that_binds_nothing_says_so(
    asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AsyncEngine, "takes_constraints", False)
    monkeypatch.setattr(AsyncEngine, "takes_forms", False)
    async with open_client(thinker(OPENED, "Hello")) as client:
        response = await client.post("/chat/completions", json={**ASKED, **asked})
        assert response.status_code == 400
        assert response.json()["error"]["param"] == next(iter(asked))
        assert "cannot bind answers" in response.json()["error"]["message"]
        assert (await message_of(client))["reasoning"] == "Hello"


async def test_an_engine_that_binds_whole_answers_only_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AsyncEngine, "takes_constraints", False)
    form = {"choice": ["yes"]}
    async with open_client(thinker(OPENED, "Hm.")) as client:
        response = await client.post("/chat/completions", json={**ASKED, **form})
        assert (response.status_code, response.json()["error"]["param"]) == (400, "choice")
        assert "reasoning_effort: none" in response.json()["error"]["message"]
        assert (await message_of(client, **form, reasoning_effort="none"))["content"] == "yes"
    async with open_client(thinker()) as client:  # which would open thoughts itself, and cannot now
        assert await message_of(client, **form) == {"role": "assistant", "content": "yes"}
        parameters = {"type": "object", "additionalProperties": False}
        function = {"name": "f", "parameters": parameters, "strict": True}
        # Nothing needs to be called, so text is free, and thoughts are.
        message = await message_of(client, tools=[{"type": "function", "function": function}])
        assert (message["reasoning"], message["content"]) == ("Hm, well.", "Hello <think>.")


async def test_an_answer_cut_while_thinking_has_no_content() -> None:
    async with open_client(thinker()) as client:
        response = await client.post("/chat/completions", json={**ASKED, "max_tokens": 10})
        choice = response.json()["choices"][0]
        assert choice["finish_reason"] == "length"
        assert (choice["message"]["reasoning"], choice["message"]["content"]) == ("Hm", "")


async def test_templates_see_earlier_thoughts() -> None:
    async with open_client(thinker()) as client:
        for name in ("reasoning_content", "reasoning"):
            turns = [
                *ASKED["messages"],
                {"role": "assistant", "content": "Yes", name: "I <think>"},
                {"content": "x"},
            ]
            prompt = (await client.post("/apply-template", json={"messages": turns})).json()["prompt"]
            assert prompt == "user: |Hi;assistant: I <think>|Yes;user: |x;"
        # What a client writes is no tag.
        ids = (await client.post("/tokenize", json={"messages": turns})).json()["tokens"]
        assert not set(ids) & {516, 517}
        turns[1]["reasoning"] = 5
        response = await client.post("/chat/completions", json={"messages": turns})
        assert response.json()["error"]["param"] == "messages.1.reasoning_content"


async def test_an_answer_that_was_begun_has_no_thoughts_in_front() -> None:
    begun = {"messages": [*ASKED["messages"], {"role": "assistant", "content": "So"}]}
    async with open_client(thinker()) as client:
        message = await message_of(client, **begun, continue_final_message=True)
        assert message["content"] == THOUGHT

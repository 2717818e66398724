"""Answers in harmony, in process: thoughts, text and calls of a scripted model, and what binds them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fake_server import Client, data_of, open_client
from harmonist import ANSWERED, BEGUN, THOUGHT, TOOLS, called, harmonist
from thinker import ASKED

from llm_serving.api.convert.harmony import HarmonyReader
from llm_serving.backends.fake import FIRST_MARK, MARKS

pytestmark = pytest.mark.anyio

FINAL = f"{BEGUN}<|channel|>final<|message|>"
# What is said → (thoughts, content, arguments of calls).
SAID = {
    "thoughts": (ANSWERED, "Hm, well.", "Hello <world>.", []),
    "no thoughts": ("<|channel|>final<|message|>Hello", "", "Hello", []),
    "in JSON": ("<|channel|>final <|constrain|>json<|message|>{}", "", "{}", []),
    "a call": (f"{THOUGHT}{BEGUN}{called()}", "Hm, well.", "", ['{"city":"Oslo"}']),
    "addressed first": (
        "<|channel|>analysis<|message|>Hm<|end|>"
        f"{BEGUN} to=functions.time<|channel|>commentary json<|message|>{{}}",
        "Hm",
        "",
        ["{}"],
    ),
    "addressed at once": (" to=functions.time<|channel|>commentary json<|message|>{}", "", "", ["{}"]),
    "a preamble": (
        f"{THOUGHT}{BEGUN}<|channel|>commentary<|message|>I look.<|end|>{BEGUN}{called()}",
        "Hm, well.",
        "I look.",
        ['{"city":"Oslo"}'],
    ),
    "two calls": (f"{called()}<|end|>{BEGUN}{called('{}', 'time')}", "", "", ['{"city":"Oslo"}', "{}"]),
    "thoughts in two": (f"{THOUGHT}{BEGUN}{THOUGHT}{FINAL}Yes", "Hm, well.\n\nHm, well.", "Yes", []),
    "text in two": (f"{THOUGHT}{FINAL}Yes<|end|>{FINAL}No", "Hm, well.", "Yes\n\nNo", []),
    "no end": (f"<|channel|>analysis<|message|>Hm{FINAL}Hi", "Hm", "Hi", []),
    "no start": (f"{THOUGHT}<|channel|>final<|message|>Hi", "Hm, well.", "Hi", []),
    "cut thoughts": ("<|channel|>analysis<|message|>Hm <|en", "Hm <|en", "", []),
    "a cut header": (f"{THOUGHT}{BEGUN}<|channel|>fin", "Hm, well.", "", []),
    "a cut call": (called('{"city": "Os'), "", '{"city": "Os', []),
    "no arguments": (called("[1]"), "", "[1]", []),
    "no such function": (called(name="delete"), "", '{"city": "Oslo"}', []),
    "another's function": (
        "<|channel|>commentary to=browser.search<|message|>{}<|end|>" + FINAL + "Hi",
        "",
        "{}\n\nHi",
        [],
    ),
    "plain text": ("Hello <|world|> <", "", "Hello <|world|> <", []),
    "blanks": (" \n", "", "", []),
    "nothing": ("", "", "", []),
    "an empty header": ("<|message|>Hi", "", "Hi", []),
    "empty messages": (f"<|channel|>analysis<|message|><|end|>{FINAL}<|end|>{FINAL}Hi", "", "Hi", []),
}


@pytest.mark.parametrize("case", SAID)
@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000])
def test_however_a_text_is_cut(case: str, step: int) -> None:
    reply, thoughts, content, calls = SAID[case]
    reader = HarmonyReader({"weather", "time"}, many=True)
    pieces = [reply[i : i + step] for i in range(0, len(reply), step)]
    read = [reader.feed(piece) for piece in pieces] + [reader.feed("", is_last=True)]
    assert "".join(part[0] for part in read) == thoughts
    assert "".join(part[1] for part in read) == content
    assert [call.arguments for part in read for call in part[2]] == calls
    assert reader.num_calls == len(calls)


async def choice_of(client: Client, **fields: Any) -> dict[str, Any]:
    response = await client.post("/chat/completions", json={**ASKED, "max_tokens": 400, **fields})
    assert response.status_code == 200, response.text
    choice: dict[str, Any] = response.json()["choices"][0]
    return choice


async def streamed(client: Client, **fields: Any) -> tuple[str, str, list[str], str]:
    """(thoughts, content, arguments, finish reason)."""
    body = {**ASKED, "max_tokens": 400, "stream": True, **fields}
    thoughts, content, calls, reason = "", "", [], ""
    for chunk in data_of((await client.post("/chat/completions", json=body)).text)[:-1]:
        delta = chunk["choices"][0]["delta"]
        thoughts += delta.get("reasoning_content", "")
        content += delta.get("content") or ""
        calls += [call["function"]["arguments"] for call in delta.get("tool_calls", [])]
        reason = chunk["choices"][0]["finish_reason"] or reason
    return thoughts, content, calls, reason


async def refused(client: Client, path: str = "/chat/completions", **fields: Any) -> tuple[str, str]:
    """(message, field) of a 400."""
    response = await client.post(path, json={**ASKED, **fields})
    assert response.status_code == 400
    error = response.json()["error"]
    return (error, "") if isinstance(error, str) else (error["message"], error.get("param", ""))


@pytest.mark.parametrize("case", SAID)
async def test_chats_tell_messages_apart(case: str) -> None:
    reply, thoughts, content, calls = SAID[case]
    async with open_client(harmonist(reply)) as client:
        choice = await choice_of(client, tools=TOOLS)
        message = choice["message"]
        assert (message.get("reasoning_content", ""), message["content"] or "") == (thoughts, content)
        assert [call["function"]["arguments"] for call in message.get("tool_calls", [])] == calls
        assert choice["finish_reason"] == ("tool_calls" if calls else "stop")
        assert await streamed(client, tools=TOOLS) == (thoughts, content, calls, choice["finish_reason"])


async def test_thoughts_are_counted_and_may_be_left_out() -> None:
    async with open_client(harmonist()) as client:
        body = (await client.post("/chat/completions", json=ASKED)).json()
        assert body["usage"]["completion_tokens_details"] == {"reasoning_tokens": len(THOUGHT)}
        assert "reasoning" not in (await choice_of(client, include_reasoning=False))["message"]
        raw = (await client.post("/completions", json={"prompt": "Hi", "max_tokens": 400})).json()
        assert raw["choices"][0]["text"] == ANSWERED


async def test_one_call_where_one_is_allowed() -> None:
    async with open_client(harmonist(SAID["two calls"][0])) as client:
        told = await streamed(client, tools=TOOLS, parallel_tool_calls=False)
        assert told == ("", "", ['{"city":"Oslo"}'], "tool_calls")


async def test_stop_strings_count_in_the_answer_only() -> None:
    async with open_client(harmonist()) as client:
        assert await streamed(client, stop=["well", " <"]) == ("Hm, well.", "Hello", [], "stop")


async def test_efforts_are_the_models() -> None:
    async with open_client(harmonist()) as client:
        for effort in (None, "low", "high"):
            body = {**ASKED, "reasoning_effort": effort}
            prompt = (await client.post("/apply-template", json=body)).json()["prompt"]
            assert prompt.startswith(f"<|start|>system<|message|>Reasoning: {effort or 'medium'}<|end|>")
            assert prompt.endswith("<|start|>assistant")
        message, param = await refused(client, reasoning_effort="none")
        assert "always reasons" in message
        assert param == "reasoning_effort"
        message, _ = await refused(client, reasoning_effort="minimal")
        assert (
            message
            == "'reasoning_effort' is 'minimal', and this model knows low, medium, high. Send one of these."
        )
        assert "'think' forbids" in (await refused(client, "/api/chat", think=False))[0]
        assert "'thinking' forbids" in (await refused(client, "/messages", thinking={"type": "disabled"}))[0]


HISTORY: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Weather? <|end|>"},
    {
        "role": "assistant",
        "content": "I look.",
        "reasoning_content": "Rain?",
        "tool_calls": [
            {"id": "1", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}},
            {"id": "2", "function": {"name": "time", "arguments": "{}"}},
        ],
    },
    {"role": "tool", "tool_call_id": "2", "content": "noon"},
    {"role": "tool", "tool_call_id": "1", "content": "rain"},
]


async def test_histories_become_what_the_template_takes() -> None:
    async with open_client(harmonist()) as client:
        body = {"messages": [*HISTORY, {"role": "system", "content": "In Norse."}], "tools": TOOLS}
        prompt = (await client.post("/apply-template", json=body)).json()["prompt"]
        told, _, turns = prompt.partition("<|start|>user")
        assert "<|start|>developer<|message|>Be brief.\n\nIn Norse.\ntype weather = {" in told
        assert "\ntype time = {" in told
        assert turns == (
            "<|message|>Weather? <|end|><|end|>"
            "<|start|>assistant<|channel|>analysis<|message|>Rain?\n\nI look.<|end|>"
            "<|start|>assistant to=functions.weather<|channel|>commentary json<|message|>"
            '{"city": "Oslo"}<|call|>'
            '<|start|>functions.weather to=assistant<|channel|>commentary<|message|>"rain"<|end|>'
            "<|start|>assistant to=functions.time<|channel|>commentary json<|message|>{}<|call|>"
            '<|start|>functions.time to=assistant<|channel|>commentary<|message|>"noon"<|end|>'
            "<|start|>assistant"
        )
        ids = (await client.post("/tokenize", json=body)).json()["tokens"]
        # What the user wrote ends no message: system, developer, user, thoughts, two results.
        assert ids.count(FIRST_MARK + MARKS.index("<|end|>")) == 6
        orphan = {"messages": [{"content": "Hi"}, {"role": "tool", "content": "rain"}]}
        assert "a result without a call" in (await refused(client, **orphan))[0]


async def test_an_answer_that_was_begun_goes_on_on_its_channel() -> None:
    begun = [*ASKED["messages"], {"role": "assistant", "content": "So", "reasoning_content": "Hm"}]
    async with open_client(harmonist("be it.")) as client:
        body = {"messages": begun, "continue_final_message": True}
        prompt = (await client.post("/apply-template", json=body)).json()["prompt"]
        assert prompt.endswith("<|start|>assistant<|channel|>final<|message|>So")
        assert (await choice_of(client, **body))["message"] == {"role": "assistant", "content": "be it."}


async def test_the_other_apis_tell_the_same() -> None:
    reply = f"{THOUGHT}{BEGUN}{called()}"
    function = TOOLS[0]["function"]
    async with open_client(harmonist(reply)) as client:
        tool = {"type": "function", **function}
        whole = (await client.post("/responses", json={"input": "Hi", "tools": [tool]})).json()
        assert [item["type"] for item in whole["output"]] == ["reasoning", "function_call"]
        assert whole["output"][0]["content"][0]["text"] == "Hm, well."
        assert whole["output"][1]["arguments"] == '{"city":"Oslo"}'
        # A call in the history, with its thoughts, by the response's id.
        result = {"type": "function_call_output", "call_id": whole["output"][1]["call_id"], "output": "rain"}
        more = {"input": [result], "previous_response_id": whole["id"], "tools": [tool]}
        assert (await client.post("/responses", json=more)).status_code == 200

        tool = {"name": "weather", "input_schema": function["parameters"]}
        body = {**ASKED, "max_tokens": 400, "tools": [tool]}
        told = (await client.post("/messages", json=body)).json()
        assert [block["type"] for block in told["content"]] == ["thinking", "tool_use"]
        assert told["content"][1]["input"] == {"city": "Oslo"}
        assert told["stop_reason"] == "tool_use"

        body = {**ASKED, "options": {"num_predict": 400}, "tools": TOOLS, "think": "low"}
        lines = [json.loads(line) for line in (await client.post("/api/chat", json=body)).text.splitlines()]
        messages = [line["message"] for line in lines]
        assert "".join(message.get("thinking", "") for message in messages) == "Hm, well."
        calls = [call["function"]["arguments"] for m in messages for call in m.get("tool_calls", [])]
        assert calls == [{"city": "Oslo"}]
        assert "thinking" in (await client.post("/api/show", json={"model": "fake"})).json()["capabilities"]


THINK_FIRST = {"97": 100}  # "a", of analysis; and then its thoughts are nothing else


async def test_forms_bind_the_final_channel() -> None:
    async with open_client(harmonist("Hm.")) as client:
        for budget, thoughts in ((0, ""), (3, "aaa")):
            asked = {"thinking_token_budget": budget, "logit_bias": THINK_FIRST}
            assert await streamed(client, choice=["yes"], **asked) == (thoughts, "yes", [], "stop")
        form = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"const": {"a": 5}}}}
        message = (await choice_of(client, response_format=form, thinking_token_budget=0))["message"]
        assert message["content"] == '{"a": 5}'


async def test_a_budget_ends_thoughts_and_nothing_else() -> None:
    async with open_client(harmonist("Hello")) as client:
        asked = {"thinking_token_budget": 2, "logit_bias": {"97": 100, "102": 50}}  # then "f", of final
        message = (await choice_of(client, **asked, max_tokens=120))["message"]
        assert message["reasoning"] == "aa"
        assert set(message["content"]) == {"a"}


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "time"}}], ids=["any", "one"]
)
async def test_calls_that_are_required_are_made(choice: Any) -> None:
    async with open_client(harmonist("Hm.")) as client:
        for budget, thoughts in ((0, ""), (2, "aa")):
            asked = {"thinking_token_budget": budget, "logit_bias": THINK_FIRST}
            told = await streamed(client, tools=TOOLS, tool_choice=choice, **asked)
            assert told[:2] == (thoughts, "")
            assert told[2] in (['{"city":"Oslo"}'], ['{"city":"Rome"}'])
            assert told[3] == "tool_calls"
            found = await choice_of(client, tools=TOOLS, tool_choice=choice, **asked)
            (call,) = found["message"]["tool_calls"]
            assert choice == "required" or call["function"]["name"] == "time"


async def test_strict_functions_bind_calls_and_leave_the_answer_free() -> None:
    strict = [{**tool, "function": {**tool["function"], "strict": True}} for tool in TOOLS]
    asked: dict[str, Any] = {"tools": strict, "thinking_token_budget": 0}
    async with open_client(harmonist("Hello")) as client:
        told = await streamed(client, **asked, logit_bias={"102": 20})  # "f": the final channel
        assert told == ("", "Hello", [], "stop")
        told = await streamed(client, **asked, logit_bias={"99": 100, "32": 50})  # "c", and a blank: a call
        assert told[:2] == ("", "")
        assert len(told[2]) == 1
        assert told[3] == "tool_calls"


async def test_what_binds_nothing_is_told_by_name() -> None:
    broken = [{"type": "function", "function": {"name": "f", "parameters": {"type": "none such"}}}]
    async with open_client(harmonist()) as client:
        assert (await refused(client, tools=broken, tool_choice="required"))[1] == "tools"
        assert (await refused(client, regex="("))[1] == "regex"

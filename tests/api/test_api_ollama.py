"""Ollama's API, in process: conversations and prompts in, a message or lines of JSON out."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from datetime import datetime
from typing import Any

import pytest
from fake_server import Client, open_client

pytestmark = pytest.mark.anyio

REPLY = "Hello, world! 😀"
SAYS = {"reply": REPLY}
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}]}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'


async def answered(client: Client, path: str, **fields: Any) -> dict[str, Any]:
    response = await client.post(f"/api/{path}", json={"stream": False, **fields})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    found: dict[str, Any] = response.json()
    return found


async def streamed(client: Client, path: str, **fields: Any) -> list[dict[str, Any]]:
    """Every line but the last one's end is an object."""
    response = await client.post(f"/api/{path}", json=fields)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/x-ndjson"
    *lines, end = response.text.split("\n")
    assert end == ""
    return [json.loads(line) for line in lines]


def check_end(end: dict[str, Any], reason: str = "stop", num_tokens: int = len(REPLY.encode()) + 1) -> None:
    assert (end["done"], end["done_reason"]) == (True, reason)
    assert end["eval_count"] == num_tokens
    assert end["prompt_eval_count"] > 0
    assert end["load_duration"] == 0
    parts = end["prompt_eval_duration"], end["eval_duration"]
    assert all(isinstance(part, int) and part > 0 for part in parts)
    assert sum(parts) <= end["total_duration"]


async def test_chat() -> None:
    async with open_client(behaviour=SAYS) as client:
        whole = await answered(client, "chat", **CHAT)
        *pieces, end = await streamed(client, "chat", **CHAT)
    assert whole["model"] == "fake"
    assert whole["message"] == {"role": "assistant", "content": REPLY}
    check_end(whole)
    assert "".join(piece["message"]["content"] for piece in pieces) == REPLY
    assert all(piece["done"] is False and piece["message"]["role"] == "assistant" for piece in pieces)
    assert end["message"] == {"role": "assistant", "content": ""}
    check_end(end)
    assert end["prompt_eval_count"] == whole["prompt_eval_count"]
    for line in (whole, *pieces, end):
        assert datetime.fromisoformat(line["created_at"].replace("Z", "+00:00")).tzinfo is not None


async def test_generate() -> None:
    async with open_client(behaviour=SAYS) as client:
        whole = await answered(client, "generate", prompt="Hi")
        *pieces, end = await streamed(client, "generate", prompt="Hi", system="")
        longer = await answered(client, "generate", prompt="Hi", system="Be kind.")
        chat = await answered(
            client,
            "chat",
            messages=[{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}],
        )
        raw = await answered(client, "generate", prompt="Hi", raw=True)
    assert (whole["response"], end["response"]) == (REPLY, "")
    assert "".join(piece["response"] for piece in pieces) == REPLY
    for each in (whole, end, longer, raw):
        check_end(each)
        assert "message" not in each
        assert "context" not in each
    assert longer["prompt_eval_count"] == chat["prompt_eval_count"] > whole["prompt_eval_count"]


async def test_raw_prompts_go_without_template_and_system_prompt() -> None:
    async with open_client(behaviour=SAYS, system_prompt="Be kind.") as client:
        raw = await answered(client, "generate", prompt="Hi", raw=True)
        plain = await answered(client, "generate", prompt="Hi")
        counted = await client.post("/tokenize", json={"prompt": "Hi"})
    assert raw["prompt_eval_count"] == counted.json()["count"] < plain["prompt_eval_count"]


@pytest.mark.parametrize(
    ("options", "reason", "text"),
    [
        ({"num_predict": 3}, "length", "Hel"),
        ({"stop": ["xyz", "wor"]}, "stop", "Hello, "),
        ({"num_predict": 1}, "length", "H"),
    ],
)
async def test_why_it_ended(options: dict[str, Any], reason: str, text: str) -> None:
    async with open_client(behaviour=SAYS) as client:
        whole = await answered(client, "chat", **CHAT, options=options)
        *pieces, end = await streamed(client, "generate", prompt="Hi", options=options)
    assert whole["message"]["content"] == text
    assert "".join(piece["response"] for piece in pieces) == text
    for each in (whole, end):
        check_end(each, reason, each["eval_count"])


@pytest.mark.parametrize("no_limit", [-1, -2])
async def test_no_limit_is_the_context(no_limit: int) -> None:
    async with open_client(behaviour={"reply": "x" * 200}, context_length=64, max_new_tokens=5) as client:
        bound = await answered(client, "chat", **CHAT)
        free = await answered(client, "chat", **CHAT, options={"num_predict": no_limit})
    check_end(bound, "length", 5)
    check_end(free, "length", 64 - free["prompt_eval_count"])


async def test_options_choose_tokens() -> None:
    async with open_client(behaviour={"random": True}) as client:

        async def said(**options: Any) -> str:
            options = {"num_predict": 100, "temperature": 1.5, **options}
            return str((await answered(client, "chat", **CHAT, options=options))["message"]["content"])

        assert await said(seed=5) == await said(seed=5) != await said(seed=6)
        assert len({await said(seed=-1) for _ in range(4)}) > 1
        greedy = await said(temperature=0)
        for options in ({"top_k": 1}, {"top_p": 1e-9}, {"top_p": 0}, {"min_p": 1.0}):
            assert await said(**options) == greedy
        body = {**CHAT, "max_tokens": 100, "temperature": 1.5, "seed": 5, "repetition_penalty": 5}
        openai = (await client.post("/chat/completions", json=body)).json()
        assert await said(seed=5, repeat_penalty=5.0) == openai["choices"][0]["message"]["content"]
        body = {**CHAT, "max_tokens": 100, "temperature": 0, "presence_penalty": 2, "frequency_penalty": 2}
        openai = (await client.post("/chat/completions", json=body)).json()
        penalized = await said(temperature=0, presence_penalty=2.0, frequency_penalty=2.0)
        assert penalized == openai["choices"][0]["message"]["content"] != greedy


async def test_functions() -> None:
    async with open_client(behaviour={"reply": f"Let me see.\n{CALL}"}) as client:
        whole = await answered(client, "chat", **CHAT, tools=[TOOL])
        *pieces, end = await streamed(client, "chat", **CHAT, tools=[TOOL])
        assert whole["message"]["content"] == "Let me see."
        (call,) = whole["message"]["tool_calls"]
        assert call["function"] == {"index": 0, "name": "weather", "arguments": {"city": "Rome"}}
        calls = [call for piece in pieces for call in piece["message"].get("tool_calls", ())]
        assert [call["function"] for call in calls] == [call["function"]]
        assert "".join(piece["message"]["content"] for piece in pieces) == "Let me see."
        assert end["done_reason"] == whole["done_reason"] == "stop"
        told = [
            *CHAT["messages"],
            {**whole["message"], "thinking": "Hm."},
            {"role": "tool", "tool_name": "weather", "content": "sunny"},
        ]
        follows = await answered(client, "chat", messages=told, tools=[TOOL])
    assert follows["prompt_eval_count"] > whole["prompt_eval_count"]


async def test_forms() -> None:
    schema = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
    schema["additionalProperties"] = False
    async with open_client(behaviour={"random": True}) as client:
        for seed in range(3):
            fields = {"format": schema, "options": {"temperature": 1.0, "seed": seed, "num_predict": 200}}
            whole = await answered(client, "chat", **CHAT, **fields)
            raw = await answered(client, "generate", prompt="Hi", raw=True, **fields)
            for end, text in ((whole, whole["message"]["content"]), (raw, raw["response"])):
                if end["done_reason"] == "stop":
                    assert list(json.loads(text)) == ["age"]
                else:
                    assert re.match(r'\{"age": -?\d*', text)
        options = {"temperature": 1.0, "seed": 1, "num_predict": 900}
        whole = await answered(client, "generate", prompt="Hi", format="json", options=options)
        assert whole["response"].startswith("{")
        assert whole["done_reason"] == "length" or isinstance(json.loads(whole["response"]), dict)


@pytest.mark.parametrize("path", ["chat", "generate"])
async def test_logprobs(path: str) -> None:
    asked: dict[str, Any] = {"prompt": "Hi"} if path == "generate" else CHAT
    fields = {**asked, "logprobs": True, "top_logprobs": 2, "options": {"num_predict": 4}}
    async with open_client(behaviour=SAYS) as client:
        whole = await answered(client, path, **fields)
        *pieces, end = await streamed(client, path, **fields)
        without = await answered(client, path, **asked)
        raw = await answered(client, "generate", **{**fields, "prompt": "Hi", "raw": True})
    tokens = whole["logprobs"]
    assert [token["token"] for token in tokens] == list("Hell")
    assert all(len(token["top_logprobs"]) == 2 and token["logprob"] <= 0 for token in tokens)
    assert [token for piece in pieces for token in piece["logprobs"]] == tokens
    assert [token["token"] for token in raw["logprobs"]] == list("Hell")
    assert "logprobs" not in end
    assert "logprobs" not in without


@pytest.mark.parametrize("fields", [{}, {"messages": []}, {"messages": None, "keep_alive": "5m"}])
async def test_without_messages_the_model_is_waited_for(fields: dict[str, Any]) -> None:
    async with open_client(wait=False) as client:
        response = await client.post("/api/chat", json=fields)
        answer = response.json()
        assert client.services.registry.default.model is not None
    assert response.status_code == 200
    assert (answer["done"], answer["done_reason"]) == (True, "load")
    assert answer["message"] == {"role": "assistant", "content": ""}


@pytest.mark.parametrize("fields", [{}, {"prompt": ""}, {"prompt": None, "keep_alive": -1}])
async def test_without_a_prompt_the_model_is_waited_for(fields: dict[str, Any]) -> None:
    async with open_client(wait=False) as client:
        answer = (await client.post("/api/generate", json=fields)).json()
    created = answer.pop("created_at")
    assert created.endswith("Z")
    assert answer == {"model": "fake", "response": "", "done": True, "done_reason": "load"}


async def test_an_error_in_a_stream_is_its_last_line() -> None:
    async with open_client(behaviour={"fail_at_step": 5, "step_seconds": 0.005}) as client:
        *_, last = await streamed(client, "chat", **CHAT)
        assert list(last) == ["error"]
        assert "engine" in last["error"]
        response = await client.post("/api/chat", json=CHAT)
        assert response.status_code == 503
        assert "engine" in response.json()["error"]
        assert "retry-after" in response.headers


async def test_silence_stays_silent() -> None:
    """A heartbeat would be a line that is no object."""
    async with open_client(behaviour={"step_seconds": 0.1}, heartbeat_s=0.01) as client:
        lines = await streamed(client, "chat", **CHAT, options={"num_predict": 3})
    assert len(lines) == 4


async def test_log_and_metrics(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with open_client(behaviour=SAYS) as client:
        await streamed(client, "chat", **CHAT)
        metrics = (await client.get("/metrics")).text
        while "POST /api/chat 200" not in caplog.text:
            await asyncio.sleep(0.01)
    assert re.search(r"POST /api/chat 200 .* model=fake prompt=\d+ cached=0 completion=19", caplog.text)
    assert 'llm_serving_requests_total{route="/api/chat",status="200"} 1.0' in metrics

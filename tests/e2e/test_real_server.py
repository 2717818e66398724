"""A live server with the real model: what a client sees, and what bad clients do to it."""

from __future__ import annotations

import asyncio
import json
import math
import socket
import time
from typing import Any

import httpx
import openai
import pytest
from patience import wait_until
from pydantic import BaseModel

pytestmark = pytest.mark.model
STORY = "Once upon a time there was a fox who lived at the edge of a dark forest. " * 8


def chat(content: str, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}], "temperature": 0, "max_tokens": 16, **fields}


def metric(server: str, name: str) -> float:
    lines = httpx.get(f"{server}/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.split("{")[0].split(" ")[0] == name)


def test_the_status_is_of_the_live_configuration(real_server: str) -> None:
    status = httpx.get(f"{real_server}/chat").json()
    assert status["status"] == "running"
    assert status["device"].startswith("cpu")
    assert set(status) >= {"llm_serving_url", "model_name", "max_new_tokens", "do_sample", "system_prompt"}


def test_the_seeds_client(real_server: str) -> None:
    """The snippet that came with the project's first description: no /v1, a foreign model name, a stream."""
    client = openai.OpenAI(api_key="OPENAI_API_KEY", base_url=real_server + "/", timeout=60, max_retries=0)
    stream = client.chat.completions.create(
        messages=[{"role": "user", "content": "tell me about Microsoft"}],
        model="gpt-4o",
        stream=True,
        max_tokens=48,
    )
    text, finish_reason = "", None
    for chunk in stream:
        if chunk.choices[0].delta.content is not None:
            text += chunk.choices[0].delta.content
        finish_reason = chunk.choices[0].finish_reason
    assert text.strip()
    assert finish_reason in ("stop", "length")


def test_probabilities_through_the_official_client(real_server: str) -> None:
    client = openai.OpenAI(api_key="x", base_url=real_server + "/v1", timeout=60, max_retries=0)
    arguments: Any = {
        "messages": [{"role": "user", "content": "Is the sky blue? Answer yes or no."}],
        "model": "default",
        "temperature": 0,
        "max_tokens": 8,
        "logprobs": True,
        "top_logprobs": 5,
    }
    choice = client.chat.completions.create(**arguments).choices[0]
    assert choice.logprobs is not None
    assert choice.logprobs.content is not None
    assert "".join(token.token for token in choice.logprobs.content) == choice.message.content
    for token in choice.logprobs.content:
        assert token.token == token.top_logprobs[0].token
        assert 0.05 < sum(math.exp(other.logprob) for other in token.top_logprobs) <= 1.000001
    streamed = [
        token
        for chunk in client.chat.completions.create(**arguments, stream=True)
        if chunk.choices[0].logprobs
        for token in chunk.choices[0].logprobs.content or []
    ]
    assert streamed == choice.logprobs.content
    text = client.completions.create(
        model="default", prompt="One, two,", max_tokens=4, temperature=0, logprobs=2
    ).choices[0]
    assert text.logprobs is not None
    assert "".join(text.logprobs.tokens or []) == text.text


class Person(BaseModel):
    name: str
    age: int


def test_parsed_answers_through_the_official_client(real_server: str) -> None:
    client = openai.OpenAI(api_key="x", base_url=real_server + "/v1", timeout=60, max_retries=0)
    answer = client.beta.chat.completions.parse(
        model="default",
        messages=[{"role": "user", "content": "Ann is 31 years old. Tell her name and age as JSON."}],
        response_format=Person,
        max_tokens=100,
        temperature=0,
    )
    person = answer.choices[0].message.parsed
    assert person is not None
    assert person.age == 31
    answered = client.chat.completions.create(
        model="default",
        messages=[{"role": "user", "content": "Is fire hot?"}],
        extra_body={"choice": ["yes", "no"]},
        max_tokens=5,
    )
    assert answered.choices[0].message.content in ("yes", "no")


def test_streamed_and_whole_answers_are_the_same_text(real_server: str) -> None:
    client = openai.OpenAI(api_key="x", base_url=real_server + "/v1", timeout=60, max_retries=0)
    messages: Any = [{"role": "user", "content": "List three tips for staying healthy."}]
    arguments: Any = {
        "messages": messages,
        "model": "default",
        "temperature": 0.8,
        "seed": 11,
        "max_tokens": 40,
    }
    whole = client.chat.completions.create(**arguments)
    options: Any = {"include_usage": True}
    chunks = list(client.chat.completions.create(**arguments, stream=True, stream_options=options))
    assert whole.choices[0].message.content == "".join(
        c.choices[0].delta.content or "" for c in chunks if c.choices
    )
    assert whole.usage is not None
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert 0 < whole.usage.completion_tokens <= 40
    assert chunks[-1].usage.prompt_tokens_details is not None
    assert chunks[-1].usage.prompt_tokens_details.cached_tokens > 0


def test_a_completion_continues_text(real_server: str) -> None:
    body = {"prompt": "The capital of France is", "max_tokens": 3, "temperature": 0}
    answer = httpx.post(f"{real_server}/completions", json=body, timeout=60).json()
    assert answer["choices"][0]["text"].startswith(" Paris")


@pytest.mark.anyio
async def test_same_seed_same_text_at_any_load(real_server: str) -> None:
    body = chat("Write a short poem about the sea.", temperature=1.0, seed=7, max_tokens=24)
    others = [chat(f"{STORY[: 40 * i]} Go on.", temperature=1.0, seed=i, max_tokens=24) for i in range(1, 13)]
    async with httpx.AsyncClient(timeout=120) as client:
        url = f"{real_server}/v1/chat/completions"
        alone = (await client.post(url, json=body)).json()
        crowd = await asyncio.gather(*(client.post(url, json=b) for b in [*others[:6], body, *others[6:]]))
    assert crowd[6].json()["choices"][0]["message"] == alone["choices"][0]["message"]
    assert len({answer.json()["choices"][0]["message"]["content"] for answer in crowd}) == len(crowd)


@pytest.mark.anyio
async def test_two_hundred_at_once(real_server: str) -> None:
    limits = httpx.Limits(max_connections=200)
    async with httpx.AsyncClient(timeout=180, limits=limits) as client:
        url = f"{real_server}/chat/completions"
        answers = await asyncio.gather(
            *(client.post(url, json=chat(f"Number {i}.", max_tokens=4)) for i in range(200))
        )
    codes = [answer.status_code for answer in answers]
    assert set(codes) == {200, 429}
    assert codes.count(200) >= 64
    for answer in answers:
        if answer.status_code == 429:
            assert int(answer.headers["retry-after"]) >= 1
            assert answer.json()["error"]["message"]
    assert httpx.get(f"{real_server}/ready").status_code == 200


@pytest.mark.parametrize("after_events", [0, 3])
def test_a_client_that_leaves_frees_its_place(real_server: str, after_events: int) -> None:
    """In prefill (a long prompt, nothing read yet) and in decode (some events read)."""
    content = f"{time.monotonic()} {STORY * 20}" if after_events == 0 else "Count to one thousand."
    body = json.dumps(chat(content, stream=True, max_tokens=4000, ignore_eos=True)).encode()
    host, port = real_server.removeprefix("http://").split(":")
    request = "POST /chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    request += f"Content-Length: {len(body)}\r\n\r\n"
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(request.encode() + body)
        received = b""
        while received.count(b"data:") < after_events:
            received += connection.recv(65536)
        wait_until(lambda: metric(real_server, "llm_serving_sequences_running") >= 1)
    wait_until(lambda: not metric(real_server, "llm_serving_sequences_running"), "the sequence still runs")


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        (chat("x " * 20_000), 400, "messages"),
        (chat("x" * 10_000_000), 413, None),
        (chat("hi", temperature=float("nan")), 400, None),
        (chat("hi", max_tokens=0), 400, "max_tokens"),
        (chat("hi", max_tokens=-1), 400, "max_tokens"),
        (chat("hi", stop=["a"] * 10_000), 400, "stop"),
        ({"messages": []}, 400, "messages"),
        ({"messages": [{"role": "king", "content": "x"}]}, 400, "messages.0.role"),
        ({"prompt": "no messages"}, 400, "messages"),
    ],
)
def test_bad_bodies(real_server: str, body: dict[str, Any], status: int, param: str | None) -> None:
    content = json.dumps(body).encode()
    headers = {"content-type": "application/json"}
    answer = httpx.post(f"{real_server}/v1/chat/completions", content=content, headers=headers, timeout=60)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert error["message"]
    assert error["param"] == param
    assert (
        httpx.post(
            f"{real_server}/v1/chat/completions", json=chat("hi", max_tokens=1), timeout=60
        ).status_code
        == 200
    )


def test_special_tokens_in_user_text_are_text(real_server: str) -> None:
    """A user who types the end-of-turn mark does not end the turn."""
    plain = httpx.post(f"{real_server}/chat/completions", json=chat("a"), timeout=60).json()
    typed = httpx.post(f"{real_server}/chat/completions", json=chat("<|im_end|>"), timeout=60).json()
    assert typed["usage"]["prompt_tokens"] >= plain["usage"]["prompt_tokens"] + 4


def test_a_function_is_called_and_its_result_used(real_server: str) -> None:
    client = openai.OpenAI(api_key="x", base_url=real_server + "/v1", timeout=60, max_retries=0)
    parameters = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}},
        "required": ["city"],
        "additionalProperties": False,
    }
    tools: Any = [{"type": "function", "function": {"name": "get_weather", "parameters": parameters}}]
    messages: Any = [{"role": "user", "content": "What is the weather in Paris?"}]
    asked: Any = {"model": "default", "tools": tools, "temperature": 0, "max_tokens": 80}
    answer = client.chat.completions.create(
        **asked, messages=messages, tool_choice="required", parallel_tool_calls=False
    )
    assert answer.choices[0].finish_reason == "tool_calls"
    (call,) = answer.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments)["city"]
    messages += [
        answer.choices[0].message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "Sunny, 21 degrees."},
    ]
    last = client.chat.completions.create(**asked, messages=messages, tool_choice="none")
    assert last.choices[0].message.content

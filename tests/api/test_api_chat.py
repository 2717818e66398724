"""`POST /chat/completions`, in process."""

from __future__ import annotations

import re
from typing import Any

import pytest
from fake_server import Client, data_of, open_client, text_of

pytestmark = pytest.mark.anyio

REPLY = "Hello, world! 😀"
HELLO: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello"}]}


@pytest.mark.parametrize("prefix", ["", "/v1"])
async def test_answer_has_openai_shape(client: Client, prefix: str) -> None:
    response = await client.post(f"{prefix}/chat/completions", json={**HELLO, "model": "gpt-4o"})
    assert response.status_code == 200
    body = response.json()
    assert re.fullmatch(r"chatcmpl-[0-9a-f]{32}", body["id"])
    assert body["object"] == "chat.completion"
    assert isinstance(body["created"], int)
    assert body["model"] == "fake"  # what really answered
    assert body["system_fingerprint"] == "fp_fake"
    assert body["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": REPLY},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    num_completion = len(REPLY.encode()) + 1  # a token a byte, and the end
    assert body["usage"] == {
        "prompt_tokens": 6,
        "completion_tokens": num_completion,
        "total_tokens": 6 + num_completion,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


async def test_stream_comes_in_the_documented_order(client: Client) -> None:
    options = {"stream": True, "stream_options": {"include_usage": True}}
    response = await client.post("/chat/completions", json={**HELLO, **options})
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"
    chunks = data_of(response.text)
    assert chunks[-1] == "[DONE]"
    *content, usage = chunks[:-1]
    assert {chunk["id"] for chunk in chunks[:-1]} == {usage["id"]}
    assert {chunk["object"] for chunk in chunks[:-1]} == {"chat.completion.chunk"}
    assert content[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [chunk["choices"][0]["finish_reason"] for chunk in content] == [None] * (len(content) - 1) + [
        "stop"
    ]
    assert content[-1]["choices"][0]["delta"] == {}
    assert all(chunk["usage"] is None for chunk in content)
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == len(REPLY.encode()) + 1
    assert text_of(chunks) == REPLY


async def test_stream_without_options_has_no_usage(client: Client) -> None:
    chunks = data_of((await client.post("/chat/completions", json={**HELLO, "stream": True})).text)
    assert all("usage" not in chunk for chunk in chunks[:-1])
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"


async def test_stream_and_answer_are_the_same_text() -> None:
    async with open_client(behaviour={"random": True}, context_length=256) as client:
        asked = {**HELLO, "seed": 7, "temperature": 1.0, "max_tokens": 64}
        whole = (await client.post("/chat/completions", json=asked)).json()
        chunks = data_of((await client.post("/chat/completions", json={**asked, "stream": True})).text)
        assert text_of(chunks) == whole["choices"][0]["message"]["content"]
        assert chunks[-2]["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]


async def test_message_without_role_is_a_user_message(client: Client) -> None:
    plain = {"messages": [{"content": "Translate to English: Je t’aime."}], "max_tokens": 512}
    with_role = {"messages": [{"role": "user", **plain["messages"][0]}]}  # type: ignore[index]
    answers = [(await client.post("/chat/completions", json=body)).json() for body in (plain, with_role)]
    assert answers[0]["usage"]["prompt_tokens"] == answers[1]["usage"]["prompt_tokens"]
    assert answers[0]["choices"][0]["message"]["content"] == REPLY


async def test_n_choices_with_seeds_of_their_own() -> None:
    async with open_client(behaviour={"random": True}, context_length=512) as client:
        asked = {**HELLO, "temperature": 1.0, "max_tokens": 40, "ignore_eos": True}
        answer = (await client.post("/chat/completions", json={**asked, "n": 3, "seed": 5})).json()
        texts = [choice["message"]["content"] for choice in answer["choices"]]
        assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
        assert len(set(texts)) == 3
        alone = (await client.post("/chat/completions", json={**asked, "seed": 6})).json()
        assert alone["choices"][0]["message"]["content"] == texts[1]
        assert answer["usage"]["prompt_tokens"] == alone["usage"]["prompt_tokens"]
        assert answer["usage"]["completion_tokens"] == 3 * 40


async def test_n_choices_in_a_stream(client: Client) -> None:
    chunks = data_of((await client.post("/chat/completions", json={**HELLO, "n": 4, "stream": True})).text)
    assert [text_of(chunks, index) for index in range(4)] == [REPLY] * 4
    last = [c["choices"][0] for c in chunks[:-1] if c["choices"][0]["finish_reason"]]
    assert sorted(choice["index"] for choice in last) == [0, 1, 2, 3]
    assert chunks.count("[DONE]") == 1


@pytest.mark.parametrize(("stop", "text"), [("world", "Hello, "), (["zzz", "o, w"], "Hell")])
@pytest.mark.parametrize("stream", [False, True])
async def test_stop_strings_end_the_text_and_are_not_shown(
    client: Client, stop: Any, text: str, stream: bool
) -> None:
    response = await client.post("/chat/completions", json={**HELLO, "stop": stop, "stream": stream})
    if stream:
        assert text_of(data_of(response.text)) == text
    else:
        choice = response.json()["choices"][0]
        assert (choice["message"]["content"], choice["finish_reason"]) == (text, "stop")


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
async def test_limit_of_tokens(client: Client, field: str) -> None:
    answer = (await client.post("/chat/completions", json={**HELLO, field: 5})).json()
    assert answer["choices"][0]["message"]["content"] == "Hello"
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 5


async def test_huge_limit_is_cut_to_the_context() -> None:
    async with open_client(behaviour={"random": True}, context_length=64) as client:
        asked = {**HELLO, "max_tokens": 10**15, "ignore_eos": True}
        answer = (await client.post("/chat/completions", json=asked)).json()
        assert answer["usage"]["total_tokens"] == 64
        assert answer["choices"][0]["finish_reason"] == "length"


async def test_default_limit_is_the_setting() -> None:
    async with open_client(behaviour={"random": True}, max_new_tokens=3) as client:
        answer = (await client.post("/chat/completions", json={**HELLO, "ignore_eos": True})).json()
        assert answer["usage"]["completion_tokens"] == 3


async def test_prompt_over_the_context_is_refused_with_both_numbers() -> None:
    async with open_client(context_length=64) as client:
        body = {"messages": [{"content": "x" * 100}]}
        for stream in (False, True):
            response = await client.post("/chat/completions", json={**body, "stream": stream})
            error = response.json()["error"]
            assert response.status_code == 400
            assert error["code"] == "context_length_exceeded"
            assert error["param"] == "messages"
            assert "101" in error["message"]
            assert "64" in error["message"]


async def test_special_tokens_in_user_text_are_plain_text(client: Client) -> None:
    text = "<|im_end|><|eos|>"
    answer = (await client.post("/chat/completions", json={"messages": [{"content": text}]})).json()
    assert answer["usage"]["prompt_tokens"] == 1 + len(text)


async def test_system_prompt_of_the_settings_is_used_when_there_is_none() -> None:
    async with open_client(system_prompt="Be nice.") as client:
        own = [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}]
        with_own = (await client.post("/chat/completions", json={"messages": own})).json()
        without = (await client.post("/chat/completions", json={"messages": own[1:]})).json()
        assert without["usage"]["prompt_tokens"] - with_own["usage"]["prompt_tokens"] == len("Be nice.") - 1


async def test_prompt_twice_is_found_in_the_cache(client: Client) -> None:
    body = {"messages": [{"content": "x" * 100}], "max_tokens": 1}
    first, second = [(await client.post("/chat/completions", json=body)).json()["usage"] for _ in "12"]
    assert first["prompt_tokens_details"]["cached_tokens"] == 0
    assert second["prompt_tokens_details"]["cached_tokens"] > 0
    assert second["prompt_tokens"] == first["prompt_tokens"]


@pytest.mark.parametrize("temperature", [0, 0.0, -0.0, 5e-324, 1e-10])
async def test_coldest_temperatures_are_greedy(client: Client, temperature: float) -> None:
    answer = await client.post("/chat/completions", json={**HELLO, "temperature": temperature})
    assert answer.json()["choices"][0]["message"]["content"] == REPLY


@pytest.mark.parametrize(("do_sample", "is_same"), [(False, True), (True, False)])
async def test_without_sampling_answers_are_greedy(do_sample: bool, is_same: bool) -> None:
    async with open_client(behaviour={"random": True}, do_sample=do_sample, temperature=1.5) as client:
        asked = {**HELLO, "max_tokens": 30, "ignore_eos": True}
        texts = {
            (await client.post("/chat/completions", json=asked)).json()["choices"][0]["message"]["content"]
            for _ in range(3)
        }
        assert (len(texts) == 1) is is_same

"""Text to tokens and back, in process."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from fake_server import Client, open_client
from thinker import thinker

from llm_serving.backends.fake import EOS_ID, FIRST_SPECIAL, SPECIAL_TOKENS

pytestmark = pytest.mark.anyio

MESSAGES = [{"role": "system", "content": "Be brief."}, {"content": "Zoë?"}]


async def post(client: Client, path: str, **body: Any) -> dict[str, Any]:
    response = await client.post(path, json=body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


@pytest.mark.parametrize("prefix", ["", "/v1"])
async def test_there_and_back(client: Client, prefix: str) -> None:
    answer = await post(client, f"{prefix}/tokenize", prompt="Zoë", return_token_strs=True)
    assert answer["tokens"] == [FIRST_SPECIAL, *"Zoë".encode()]
    assert answer["count"] == 5
    assert answer["model"] == "fake"
    assert answer["max_model_len"] > 100
    assert answer["token_strs"] == [SPECIAL_TOKENS[0], "Z", "o", "\ufffd", "\ufffd"]
    assert "token_strs" not in await post(client, "/tokenize", prompt="Zoë")
    plain = await post(client, "/tokenize", content="Zoë", add_special_tokens=False)
    assert plain["tokens"] == answer["tokens"][1:]
    back = await post(client, f"{prefix}/detokenize", tokens=answer["tokens"])
    assert back == {"prompt": SPECIAL_TOKENS[0] + "Zoë", "content": SPECIAL_TOKENS[0] + "Zoë"}


@pytest.mark.parametrize("name", ["add_special_tokens", "add_special"])
async def test_special_tokens_in_a_text_are_read_as_completions_read_them(client: Client, name: str) -> None:
    asked: dict[str, Any] = {"content": "a" + SPECIAL_TOKENS[1], name: False}
    assert (await post(client, "/tokenize", **asked))["tokens"] == [ord("a"), EOS_ID]
    plain = await post(client, "/tokenize", **asked, parse_special=False)
    assert plain["tokens"] == list(b"a" + SPECIAL_TOKENS[1].encode())


async def test_a_rendered_conversation_is_counted_as_the_conversation(client: Client) -> None:
    prompt = (await post(client, "/apply-template", messages=MESSAGES))["prompt"]
    whole = await post(client, "/tokenize", messages=MESSAGES)
    assert (await post(client, "/tokenize", prompt=prompt))["tokens"] == whole["tokens"]


async def test_what_is_counted_is_what_is_read(client: Client) -> None:
    counted = await post(client, "/chat/completions/input_tokens", messages=MESSAGES, max_tokens=5)
    assert counted["object"] == "chat.completion.input_tokens"
    tokens = await post(client, "/tokenize", messages=MESSAGES)
    completion = await post(client, "/chat/completions", messages=MESSAGES, max_tokens=1)
    assert counted["input_tokens"] == tokens["count"] == completion["usage"]["prompt_tokens"]
    prompt = (await post(client, "/apply-template", messages=MESSAGES))["prompt"]
    assert "Be brief." in prompt
    assert "Zoë?" in prompt
    text = await post(client, "/completions", prompt=prompt, max_tokens=1)
    assert text["usage"]["prompt_tokens"] == tokens["count"]


async def test_functions_are_part_of_the_prompt(client: Client) -> None:
    tools = [{"type": "function", "function": {"name": "weather", "description": "of a city"}}]
    prompt = (await post(client, "/apply-template", messages=MESSAGES, tools=tools))["prompt"]
    assert "weather" in prompt
    asked = {"messages": MESSAGES, "tools": tools}
    count = (await post(client, "/tokenize", **asked))["count"]
    assert count == (await post(client, "/chat/completions/input_tokens", **asked))["input_tokens"]
    assert count > (await post(client, "/tokenize", messages=MESSAGES))["count"]


async def test_the_default_system_prompt_counts() -> None:
    async with open_client(system_prompt="Speak like a pirate.") as client:
        assert "pirate" in (await post(client, "/apply-template", messages=MESSAGES[1:]))["prompt"]
        assert "pirate" not in (await post(client, "/apply-template", messages=MESSAGES))["prompt"]


async def test_an_effort_counts() -> None:
    async with open_client(thinker()) as client:
        asked = {"messages": MESSAGES, "reasoning_effort": "none"}
        prompt = (await post(client, "/apply-template", **asked))["prompt"]
        assert prompt.endswith("<think>\n\n</think>\n\n")
        assert prompt.startswith((await post(client, "/apply-template", messages=MESSAGES))["prompt"])
        count = (await post(client, "/tokenize", **asked))["count"]
        assert count == (await post(client, "/chat/completions/input_tokens", **asked))["input_tokens"]
        assert count > (await post(client, "/tokenize", messages=MESSAGES))["count"]


@pytest.mark.parametrize("method", ["piece", "decode", "encode_prompt"])
async def test_what_is_long_does_not_hold_up_the_event_loop(
    client: Client, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = client.services.registry.default.get().tokenizer
    original, threads = getattr(tokenizer, method), set()

    def watched(*args: Any, **kwargs: Any) -> Any:
        threads.add(threading.current_thread())
        return original(*args, **kwargs)

    monkeypatch.setattr(tokenizer, method, watched)
    if method == "decode":
        await post(client, "/detokenize", tokens=[65] * 5000)
    else:
        await post(client, "/tokenize", prompt="x" * 9000, return_token_strs=method == "piece")
    assert threads
    assert threading.current_thread() not in threads


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "a", "content": "b"}, "content"),
        ("/tokenize", {"prompt": "a", "messages": MESSAGES}, "messages"),
        ("/tokenize", {"messages": [{"role": "robot"}]}, "messages.0.role"),
        (
            "/tokenize",
            {"messages": MESSAGES, "chat_template_kwargs": {"messages": []}},
            "chat_template_kwargs",
        ),
        ("/tokenize", {"prompt": "a", "reasoning_effort": "none"}, "reasoning_effort"),
        ("/tokenize", {"prompt": "a", "chat_template_kwargs": {"x": 1}}, "chat_template_kwargs"),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": [1.5]}, "tokens.0"),
        ("/detokenize", {"tokens": [2**70]}, "tokens"),
        ("/apply-template", {"messages": []}, "messages"),
        ("/chat/completions/input_tokens", {"messages": "hi"}, "messages"),
    ],
)
async def test_what_is_refused(client: Client, path: str, body: dict[str, Any], param: str) -> None:
    response = await client.post(path, json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"].startswith(param)

"""`logprobs`, `top_logprobs` and `logit_bias`, in process."""

from __future__ import annotations

import math
from typing import Any

import pytest
from fake_server import Client, data_of, open_client

from llm_serving.backends.fake import EOS_ID, NUM_BYTES, VOCAB_SIZE

pytestmark = pytest.mark.anyio

REPLY = "Hello, world! 😀"
CHAT = {"messages": [{"role": "user", "content": "Hi"}], "temperature": 0}


async def chat(client: Client, **fields: Any) -> dict[str, Any]:
    response = await client.post("/chat/completions", json={**CHAT, **fields})
    assert response.status_code == 200, response.text
    choice: dict[str, Any] = response.json()["choices"][0]
    return choice


async def chat_stream(client: Client, **fields: Any) -> list[dict[str, Any]]:
    response = await client.post("/chat/completions", json={**CHAT, "stream": True, **fields})
    assert response.status_code == 200, response.text
    return [chunk["choices"][0] for chunk in data_of(response.text)[:-1]]


async def test_every_shown_token_has_one_and_the_end_has_none(client: Client) -> None:
    choice = await chat(client, logprobs=True, top_logprobs=3)
    content = choice["logprobs"]["content"]
    assert choice["logprobs"]["refusal"] is None
    assert bytes(byte for token in content for byte in token["bytes"]).decode() == REPLY
    assert [token["token"] for token in content[:5]] == list("Hello")
    assert content[-1]["token"] == "\ufffd"  # a byte of a character
    for token in content:
        top = token["top_logprobs"]
        assert len(top) == 3
        assert {name: top[0][name] for name in ("token", "logprob", "bytes")} == {
            name: token[name] for name in ("token", "logprob", "bytes")
        }
        assert 0 >= top[0]["logprob"] >= top[1]["logprob"] >= top[2]["logprob"]
        assert sum(math.exp(other["logprob"]) for other in top) <= 1 + 1e-6


async def test_none_unless_asked_for(client: Client) -> None:
    assert (await chat(client))["logprobs"] is None
    assert (await chat(client, logprobs=False, top_logprobs=0))["logprobs"] is None
    assert {piece["logprobs"] for piece in await chat_stream(client)} == {None}
    alone = await chat(client, logprobs=True)
    assert {len(token["top_logprobs"]) for token in alone["logprobs"]["content"]} == {0}


@pytest.mark.parametrize("stop", [None, "world", "o, w", "zzz"])
async def test_a_stream_tells_the_same(client: Client, stop: str | None) -> None:
    asked = {"logprobs": True, "top_logprobs": 2, "stop": stop}
    whole = await chat(client, **asked)
    pieces = await chat_stream(client, **asked)
    streamed = [token for piece in pieces if piece["logprobs"] for token in piece["logprobs"]["content"]]
    assert streamed == whole["logprobs"]["content"]
    assert "".join(piece["delta"].get("content", "") for piece in pieces) == whole["message"]["content"]


@pytest.mark.parametrize(("stop", "text"), [("world", "Hello, "), ("o, w", "Hell"), ("Hello", "")])
async def test_a_stop_string_is_not_told_this_way_either(client: Client, stop: str, text: str) -> None:
    choice = await chat(client, stop=stop, logprobs=True)
    assert choice["message"]["content"] == text
    assert [token["token"] for token in choice["logprobs"]["content"]] == list(text)


async def test_completions_have_their_own_shape(client: Client) -> None:
    asked = {"prompt": ["a", "b"], "logprobs": 2, "temperature": 0}
    whole = (await client.post("/completions", json=asked)).json()["choices"]
    for choice in whole:
        logprobs = choice["logprobs"]
        num = len(REPLY.encode())
        assert {len(column) for column in logprobs.values()} == {num}
        assert logprobs["tokens"][:5] == list("Hello")
        assert logprobs["text_offset"] == [*range(15), 14, 14, 14]
        for token, logprob, top in zip(*list(logprobs.values())[:3], strict=True):
            assert top[token] == logprob
    chunks = data_of((await client.post("/completions", json={**asked, "stream": True})).text)[:-1]
    for index, choice in enumerate(whole):
        parts = [c["choices"][0]["logprobs"] for c in chunks if c["choices"][0]["index"] == index]
        for name, column in choice["logprobs"].items():
            assert [value for part in parts if part for value in part[name]] == column
    plain = {**asked, "logprobs": 0}
    first = (await client.post("/completions", json=plain)).json()["choices"][0]["logprobs"]
    assert first["top_logprobs"] == [{}] * len(first["tokens"])
    assert first["token_logprobs"] == whole[0]["logprobs"]["token_logprobs"]


async def test_chosen_tokens_and_probabilities_do_not_depend_on_being_told() -> None:
    async with open_client(behaviour={"random": True}) as client:
        asked = {"max_tokens": 60, "temperature": 1.0, "seed": 4, "ignore_eos": True}
        plain = await chat(client, **asked)
        told = await chat(client, **asked, logprobs=True, top_logprobs=20)
        assert told["message"] == plain["message"]
        hot = await chat(client, **{**asked, "temperature": 1e-4}, logprobs=True, top_logprobs=1)
        for token in hot["logprobs"]["content"]:  # the model's own, whatever the temperature
            assert token["logprob"] == token["top_logprobs"][0]["logprob"] < 0


async def test_special_tokens_are_named(client: Client) -> None:
    choice = await chat(client, logprobs=True, top_logprobs=20, max_tokens=1, logit_bias={str(EOS_ID): 0})
    assert choice["logprobs"]["content"][0]["token"] == "H"
    ended = await chat(client, logprobs=True, logit_bias={str(EOS_ID): 100})
    assert ended["finish_reason"] == "stop"
    assert ended["logprobs"]["content"] == []


async def test_a_bias_forces_and_bans() -> None:
    async with open_client(behaviour={"random": True}) as client:
        asked = {"max_tokens": 1, "logprobs": True, "top_logprobs": 2}
        (plain,) = (await chat(client, **asked))["logprobs"]["content"]
        first, second = (token["bytes"][0] for token in plain["top_logprobs"])
        # Two ids stand for a byte here.
        for bias in ({second: 100, second + NUM_BYTES: 100}, {first: -100, first + NUM_BYTES: -100}):
            (biased,) = (await chat(client, **asked, logit_bias=bias))["logprobs"]["content"]
            assert biased["bytes"] == [second]
            # Told is what the model thinks: it would have said something else.
            assert biased["top_logprobs"] == plain["top_logprobs"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"top_logprobs": 1}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": -1}, "top_logprobs"),
        ({"logprobs": "yes"}, "logprobs"),
        ({"logit_bias": {str(VOCAB_SIZE): 1}}, "logit_bias"),
        ({"logit_bias": {"9" * 400: 1}}, "logit_bias"),
        ({"logit_bias": {"-1": 1}}, "logit_bias"),
        ({"logit_bias": {"²": 1}}, "logit_bias"),
        ({"logit_bias": {"1": "1"}}, "logit_bias.1"),
        ({"logit_bias": {"1": -101}}, "logit_bias.1"),
        ({"logit_bias": [1]}, "logit_bias"),
        ({"logit_bias": {str(i): 1 for i in range(1025)}}, "logit_bias"),
    ],
    ids=str,
)
async def test_what_is_refused(client: Client, fields: dict[str, Any], param: str) -> None:
    response = await client.post("/chat/completions", json={**CHAT, **fields})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param

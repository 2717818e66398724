"""Ollama's own client against a live server."""

from __future__ import annotations

import json
from collections.abc import Iterator

import ollama
import pytest
from fake_server import fake_app, running_server
from ollama import Client

REPLY = "Hello, world! 😀"
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'
HI = [{"role": "user", "content": "Hi"}]


@pytest.fixture(scope="module")
def sdk() -> Iterator[Client]:
    app = fake_app(behaviour={"reply": REPLY}, api_key=("secret",))
    with running_server(app) as url, Client(url, headers={"Authorization": "Bearer secret"}) as opened:
        yield opened


def weather(city: str) -> str:
    """Tell the weather.

    Args:
      city: Where.
    """
    return f"It is sunny in {city}."


def test_chat(sdk: Client) -> None:
    answer = sdk.chat("llama3.2", HI, options={"num_ctx": 1024, "temperature": 0}, keep_alive="5m")
    assert (answer.message.content, answer.done_reason, answer.model) == (REPLY, "stop", "fake")
    assert answer.eval_count == len(REPLY.encode()) + 1
    assert answer.eval_duration
    assert answer.total_duration


def test_chat_stream(sdk: Client) -> None:
    *pieces, end = sdk.chat("llama3.2", HI, stream=True, think=False)
    assert "".join(piece.message.content or "" for piece in pieces) == REPLY
    assert len(pieces) > 1
    assert end.done
    assert end.prompt_eval_count


def test_generate(sdk: Client) -> None:
    answer = sdk.generate("llama3.2", "Hi", system="Be kind.", raw=False)
    assert (answer.response, answer.done) == (REPLY, True)
    pieces = list(sdk.generate("llama3.2", "Hi", stream=True))
    assert "".join(piece.response or "" for piece in pieces) == REPLY
    assert sdk.generate("llama3.2").done_reason == "load"


def test_embed(sdk: Client) -> None:
    answer = sdk.embed("nomic-embed-text", ["Hi", "Hello"], truncate=True, dimensions=8)
    assert [len(vector) for vector in answer.embeddings] == [8, 8]
    assert len(sdk.embeddings("nomic-embed-text", "Hi").embedding) == 32


def test_models(sdk: Client) -> None:
    names = [model.model for model in sdk.list().models]
    assert names == ["fake:latest", "fake-embed:latest"]
    shown = sdk.show(names[0])
    assert shown.capabilities == ["completion", "tools"]
    assert shown.modelinfo
    running = sdk.ps().models
    assert [model.name for model in running] == names
    assert running[0].context_length == 4096
    assert running[0].expires_at
    assert sdk.pull("fake").status == "success"
    assert [step.status for step in sdk.pull("fake", stream=True)] == ["success"]


@pytest.mark.parametrize("is_stream", [False, True])
def test_tools(is_stream: bool) -> None:
    with running_server(fake_app(behaviour={"reply": CALL})) as url, Client(url) as sdk:
        if is_stream:
            pieces = sdk.chat("llama3.2", HI, tools=[weather], stream=True)
            (message,) = [piece.message for piece in pieces if piece.message.tool_calls]
        else:
            message = sdk.chat("llama3.2", HI, tools=[weather]).message
        assert message.tool_calls
        (call,) = message.tool_calls
        assert weather(**call.function.arguments) == "It is sunny in Rome."
        told = [*HI, message, {"role": "tool", "content": "sunny", "tool_name": call.function.name}]
        assert sdk.chat("llama3.2", told).done


def test_format() -> None:
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    schema["additionalProperties"] = False
    with running_server(fake_app(behaviour={"random": True})) as url, Client(url) as sdk:
        answer = sdk.chat("llama3.2", HI, format=schema)
    assert list(json.loads(answer.message.content or "")) == ["ok"]


def test_errors(sdk: Client) -> None:
    with pytest.raises(ollama.ResponseError, match="options.top_p") as caught:
        sdk.chat("llama3.2", HI, options={"top_p": 5})
    assert caught.value.status_code == 400
    with pytest.raises(ollama.ResponseError, match="'x' does not exist") as caught:
        sdk.show("x")
    assert caught.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match="llm-serving models") as caught:
        sdk.delete("fake")
    assert caught.value.status_code == 400
    with pytest.raises(ollama.ResponseError, match="temperature"):
        list(sdk.generate("llama3.2", "Hi", stream=True, options={"temperature": 3}))


def test_an_error_in_a_stream() -> None:
    app = fake_app(behaviour={"fail_at_step": 5, "step_seconds": 0.005})
    with (
        running_server(app) as url,
        Client(url) as sdk,
        pytest.raises(ollama.ResponseError, match="engine"),
    ):
        list(sdk.chat("llama3.2", HI, stream=True))


def test_the_key_is_asked_for(sdk: Client) -> None:
    with (
        Client(str(sdk._client.base_url)) as stranger,
        pytest.raises(ollama.ResponseError, match="API key") as caught,
    ):
        stranger.list()
    assert caught.value.status_code == 401

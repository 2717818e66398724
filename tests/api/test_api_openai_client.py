"""The official client against a live server: what it can read is what we promise."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest
from fake_server import fake_app, running_server
from openai import OpenAI

REPLY = "Hello, world! 😀"


@pytest.fixture
def sdk(live_url: str) -> Iterator[OpenAI]:
    # As in the seed: any key, no /v1.
    with OpenAI(api_key="OPENAI_API_KEY", base_url=f"{live_url}/", max_retries=0) as opened:
        yield opened


def test_snippet_of_the_seed(sdk: OpenAI) -> None:
    stream = sdk.chat.completions.create(
        messages=[
            {
                "role": "user",
                "content": "tell me about Microsoft",
            }
        ],
        model="gpt-4o",
        stream=True,
    )
    text = ""
    for chunk in stream:
        if chunk.choices[0].delta.content is not None:
            text += chunk.choices[0].delta.content
    assert text == REPLY


def test_answer(sdk: OpenAI) -> None:
    answer = sdk.chat.completions.create(
        messages=[{"role": "user", "content": [{"type": "text", "text": "Hi"}]}], model="gpt-4o", n=2
    )
    assert answer.model == "fake"
    assert [choice.message.content for choice in answer.choices] == [REPLY] * 2
    assert answer.usage is not None
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_stream_with_usage(sdk: OpenAI) -> None:
    stream = sdk.chat.completions.create(
        messages=[{"role": "user", "content": "Hi"}],
        model="gpt-4o",
        stream=True,
        stream_options={"include_usage": True},
    )
    *chunks, last = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens == len(REPLY.encode()) + 1


def test_stream_helper_of_the_client(sdk: OpenAI) -> None:
    with sdk.chat.completions.stream(messages=[{"role": "user", "content": "Hi"}], model="gpt-4o") as stream:
        text = "".join(event.delta for event in stream if event.type == "content.delta")
        assert text == REPLY
        assert stream.get_final_completion().choices[0].message.content == REPLY


def test_completions(sdk: OpenAI) -> None:
    assert sdk.completions.create(model="x", prompt="Once", stop="world").choices[0].text == "Hello, "
    stream = sdk.completions.create(model="x", prompt="Once", stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == REPLY


def test_a_text_that_is_scored(sdk: OpenAI) -> None:
    answer = sdk.completions.create(model="x", prompt="ab", echo=True, logprobs=1, max_tokens=0)
    (choice,) = answer.choices
    assert (choice.text, choice.finish_reason) == ("ab", "length")
    assert choice.logprobs is not None
    assert choice.logprobs.tokens == ["<|bos|>", "a", "b"]
    assert choice.logprobs.token_logprobs is not None
    assert [value is None for value in choice.logprobs.token_logprobs] == [True, False, False]
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 0


def test_models(live_url: str) -> None:
    with OpenAI(api_key="x", base_url=f"{live_url}/v1") as sdk:
        assert [model.id for model in sdk.models.list()] == ["fake", "fake-embed"]
        assert sdk.models.retrieve("fake").id == "fake"
        with pytest.raises(openai.NotFoundError):
            sdk.models.retrieve("gpt-4o")


def test_errors_are_the_clients_own_types(sdk: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.chat.completions.create(messages=[], model="x")
    assert caught.value.param == "messages"
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.chat.completions.create(messages=[{"role": "user", "content": "x" * 9000}], model="x")
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="tools"):
        sdk.chat.completions.create(
            messages=[{"role": "user", "content": "x"}],
            model="x",
            tools=[{"type": "function", "function": {"name": "no name"}}],
        )


def test_ten_megabytes_are_413_and_the_client_hears_it(sdk: OpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        sdk.chat.completions.create(
            messages=[{"role": "user", "content": "x" * 10_000_000}], model="x", timeout=10
        )
    assert caught.value.status_code == 413
    assert caught.value.code == "request_too_large"
    test_snippet_of_the_seed(sdk)


def test_wrong_key() -> None:
    with running_server(fake_app(api_key=("right",))) as url:
        with OpenAI(api_key="wrong", base_url=url) as sdk, pytest.raises(openai.AuthenticationError):
            sdk.models.list()
        with OpenAI(api_key="right", base_url=url) as sdk:
            assert sdk.models.list().data


def test_error_in_the_middle_of_a_stream() -> None:
    with (
        running_server(fake_app(behaviour={"fail_at_step": 4})) as url,
        OpenAI(api_key="x", base_url=url, max_retries=0) as sdk,
    ):
        stream = sdk.chat.completions.create(
            messages=[{"role": "user", "content": "Hi"}], model="x", stream=True
        )
        with pytest.raises(openai.APIError, match="The engine stopped working"):
            list(stream)

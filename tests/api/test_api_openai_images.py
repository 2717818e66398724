"""The official client shows pictures to a SmolVLM of random weights, on a live server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest

pytest.importorskip("PIL", reason="needs the extra: pip install 'llm-serving[images]'")

from fake_server import running_server
from openai import OpenAI
from pictures import png_url
from tiny_vision import ROWS, write_tiny_smolvlm

from llm_serving.api.app import create_app
from llm_serving.config import Settings


@pytest.fixture(scope="module")
def sdk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenAI]:
    directory = write_tiny_smolvlm(tmp_path_factory.mktemp("smolvlm") / "tiny-smolvlm")
    settings = Settings(model_name=str(directory), embedding_model="", threads=2, packed_cache=0, drain_s=0)
    with (
        running_server(create_app(settings)) as url,
        OpenAI(api_key="any", base_url=url, max_retries=0) as opened,
    ):
        yield opened


def ask(sdk: OpenAI, *urls: str, text: str = "What is it?", **more: Any) -> Any:
    images = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return sdk.chat.completions.create(
        model="tiny-smolvlm",
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [*images, {"type": "text", "text": text}]},
        ],
        max_tokens=12,
        temperature=0,
        logprobs=True,
        **more,
    )


def test_answers_depend_on_the_picture(sdk: OpenAI) -> None:
    first, again, other, none = (
        ask(sdk, *urls) for urls in ([png_url(seed=1)], [png_url(seed=1)], [png_url(seed=2)], [])
    )
    logprobs = [
        [token.logprob for token in answer.choices[0].logprobs.content]
        for answer in (first, again, other, none)
    ]
    assert logprobs[0] == logprobs[1], "from the cache, bit for bit"
    assert logprobs[0] != logprobs[2]
    assert again.usage.prompt_tokens_details.cached_tokens > 0
    # Four tiles and the whole, each with what is around it, where there was nothing.
    assert first.usage.prompt_tokens - none.usage.prompt_tokens >= 5 * ROWS


def test_two_pictures_in_order(sdk: OpenAI) -> None:
    one, two = png_url(seed=1), png_url(64, 20, seed=2)
    answers = [ask(sdk, *urls).choices[0].logprobs.content[0].logprob for urls in ([one, two], [two, one])]
    assert answers[0] != answers[1]


def test_a_stream_with_usage(sdk: OpenAI) -> None:
    whole = ask(sdk, png_url(seed=3))
    chunks = list(ask(sdk, png_url(seed=3), stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage.prompt_tokens == whole.usage.prompt_tokens


def test_texts_alone_are_shown_to_a_template_of_parts(sdk: OpenAI) -> None:
    short, long = (ask(sdk, text=text).usage.prompt_tokens for text in ("a", "a b c d e f g h"))
    assert long > short


def test_a_url_is_never_fetched(sdk: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="fetches nothing"):
        ask(sdk, "http://127.0.0.1:1/x.png")


def test_the_model_says_that_it_sees(sdk: OpenAI) -> None:
    assert "vision" in sdk.models.retrieve("tiny-smolvlm").model_extra["capabilities"]

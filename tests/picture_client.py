"""The official client shows pictures to a model of random weights that sees, and what its answers tell."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fake_server import running_server
from openai import OpenAI

from llm_serving.api.app import create_app
from llm_serving.config import Settings

TEXT = "Tell me all that there is to be told of it, and more. " * 3


@contextmanager
def served(directory: Path, **settings: Any) -> Iterator[OpenAI]:
    """A client of a server of this model."""
    own = Settings(
        model_name=str(directory), embedding_model="", threads=2, packed_cache=0, drain_s=0, **settings
    )
    with (
        running_server(create_app(own)) as url,
        OpenAI(api_key="any", base_url=url, max_retries=0) as opened,
    ):
        yield opened


def ask(sdk: OpenAI, *urls: str, text: str = TEXT, detail: str = "auto", **more: Any) -> Any:
    images = [{"type": "image_url", "image_url": {"url": url, "detail": detail}} for url in urls]
    asked = {"max_tokens": 24, "temperature": 0, "logprobs": True, **more}
    return sdk.chat.completions.create(
        model="the-one-there-is",
        messages=[{"role": "user", "content": [*images, {"type": "text", "text": text}]}],
        **asked,
    )


def logprobs_of(answer: Any) -> list[float]:
    return [token.logprob for token in answer.choices[0].logprobs.content]


def cached(answer: Any) -> int:
    """Tokens of the prompt that were found."""
    return int(answer.usage.prompt_tokens_details.cached_tokens)

"""A server with two GGUF files: text model and projector. What it sees is what the directory sees."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("PIL", reason="needs the extra: pip install 'llm-serving[images]'")

from fake_server import running_server
from gguf_pairs import write_pair, write_projector, write_text
from openai import OpenAI
from pictures import png_url
from tiny_gemma import write_tiny_gemma
from tiny_vision import write_tiny_smolvlm

from llm_serving.api.app import create_app
from llm_serving.config import Settings

pytestmark = pytest.mark.slow


def answers(model: Path) -> list[Any]:
    """Tokens of the prompt, text and log-probabilities behind each of two pictures, and the first again."""
    settings = Settings(
        model_name=str(model), embedding_model="", threads=2, packed_cache=0, drain_s=0, quantization="f32"
    )
    with (
        running_server(create_app(settings), ready_s=60) as url,
        OpenAI(api_key="any", base_url=url, max_retries=0) as sdk,
    ):
        return [ask(sdk, png_url(70, 40, seed=seed)) for seed in (1, 2, 1)]


def ask(sdk: OpenAI, url: str) -> tuple[int, str | None, list[float]]:
    content: list[Any] = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": "Tell me what it is."},
    ]
    answer = sdk.chat.completions.create(
        model="any",
        messages=[{"role": "user", "content": content}],
        max_tokens=6,
        temperature=0,
        logprobs=True,
    )
    choice = answer.choices[0]
    assert answer.usage is not None
    assert choice.logprobs is not None
    assert choice.logprobs.content is not None
    logprobs = [token.logprob for token in choice.logprobs.content]
    return answer.usage.prompt_tokens, choice.message.content, logprobs


def test_a_vocabulary_without_the_token_of_a_row(tmp_path: Path) -> None:
    """As GGUF files may have it: llama.cpp needs no such token."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    directory = write_tiny_gemma(folder)
    text, _ = write_pair(tmp_path / "whole", directory)
    (tmp_path / "less").mkdir()
    less = write_text(tmp_path / "less" / "tiny.gguf", directory, without_soft_token)
    write_projector(tmp_path / "less" / "mmproj-tiny.gguf", directory)
    assert answers(less) == answers(text)


def without_soft_token(token: str) -> str:
    return {"<image_soft_token>": "<unused>", "<|endoftext|>": "<pad>"}.get(token, token)


@pytest.mark.parametrize("write", [write_tiny_smolvlm, write_tiny_gemma])
def test_two_files_answer_as_the_directory(write: Callable[[Path], Path], tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    folder.mkdir()
    directory = write(folder)
    text, _ = write_pair(tmp_path / "pair", directory)
    first, other, again = answers(text)
    assert first == again
    assert first[2] != other[2]
    for (count, words, logprobs), expected in zip((first, other), answers(directory), strict=False):
        assert (count, words) == expected[:2]
        assert logprobs == pytest.approx(expected[2], abs=2e-3)

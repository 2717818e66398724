"""The official client shows pictures to Qwen-VLs of random weights, on a server with a cache on disk."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest

pytest.importorskip("PIL", reason="needs the extra: pip install 'llm-serving[images]'")

from openai import OpenAI
from picture_client import TEXT, ask, cached, logprobs_of, served
from pictures import png_url
from tiny_qwen3_5_vl import write_tiny_qwen3_5_moe
from tiny_qwen_vl import UNIT, write_tiny_qwen3_vl, write_tiny_qwen_vl

from llm_serving.engine.tier import BlockTier

ROWS = 5 * 4  # of a picture of 40 x 30 pixels, in units of 8


@pytest.fixture(scope="module", params=[write_tiny_qwen_vl, write_tiny_qwen3_vl, write_tiny_qwen3_5_moe])
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The last one has a layer that remembers, and experts."""
    written: Path = request.param(tmp_path_factory.mktemp("qwen") / "tiny-qwen")
    return written


@pytest.fixture(scope="module")
def sdk(directory: Path) -> Iterator[OpenAI]:
    with served(directory) as opened:
        yield opened


def test_answers_depend_on_the_picture(sdk: OpenAI) -> None:
    first, again, other, none = (
        ask(sdk, *urls) for urls in ([png_url(seed=1)], [png_url(seed=1)], [png_url(seed=2)], [])
    )
    assert logprobs_of(first) == logprobs_of(again), "from the cache, bit for bit"
    assert logprobs_of(first) != logprobs_of(other)
    assert (cached(first), cached(other)) == (0, 0), "the picture begins in the first block"
    assert cached(again) > ROWS
    assert first.usage.prompt_tokens - none.usage.prompt_tokens == ROWS + 2
    assert "vision" in sdk.models.retrieve("tiny-qwen").model_extra["capabilities"]


def test_the_shape_of_a_picture_is_its_own(sdk: OpenAI) -> None:
    found = {}
    for size in [(40, 30), (30, 40), (80, 16), (16, 16), (2000, 1500)]:
        answer = ask(sdk, png_url(*size, seed=3), max_tokens=1)
        found[size] = answer.usage.prompt_tokens - ask(sdk, max_tokens=1).usage.prompt_tokens - 2
    assert found == {(40, 30): 20, (30, 40): 20, (80, 16): 20, (16, 16): 4, (2000, 1500): 35}


def test_pictures_of_equal_length_in_other_shapes_share_nothing(sdk: OpenAI) -> None:
    answers = [ask(sdk, png_url(*size, seed=4)) for size in [(40, 30), (30, 40), (80, 16)]]
    assert [cached(answer) for answer in answers] == [0, 0, 0]
    assert len({tuple(logprobs_of(answer)) for answer in answers}) == 3


def test_what_goes_on_from_a_prefix_is_turned_as_the_whole(sdk: OpenAI, directory: Path) -> None:
    """The same conversation, once from blocks of its beginning, and once from none.

    Layers that remember keep a state where the second one began to differ.
    """
    urls = [png_url(90, 40, seed=5), png_url(30, 70, seed=6)]
    begun = ask(sdk, *urls, text=TEXT)
    ask(sdk, *urls, text=f"{TEXT} Or what not?")
    longer = ask(sdk, *urls, text=f"{TEXT} And what else?")
    assert 0 < cached(longer) < longer.usage.prompt_tokens
    assert cached(begun) == 0
    with served(directory) as fresh:
        alone = ask(fresh, *urls, text=f"{TEXT} And what else?")
    assert cached(alone) == 0
    assert logprobs_of(alone) == logprobs_of(longer)


def test_company_changes_nothing(sdk: OpenAI) -> None:
    asked = [[png_url(20 + 9 * seed, 90 - 5 * seed, seed=seed)] for seed in range(10, 15)]
    asked += [[], [png_url(seed=20), png_url(70, 20, seed=21)]]
    with ThreadPoolExecutor(7) as pool:
        together = list(pool.map(lambda urls: logprobs_of(ask(sdk, *urls)), asked))
    assert together == [logprobs_of(ask(sdk, *urls)) for urls in asked]


def test_little_of_a_picture(tmp_path: Path) -> None:
    large = {"max_pixels": 400 * UNIT**2}
    directory = write_tiny_qwen_vl(tmp_path / "tiny-qwen", large)
    with served(directory) as sdk:
        none, low, high = (
            ask(sdk, *urls, detail=detail, max_tokens=1).usage.prompt_tokens
            for urls, detail in (([], "auto"), ([png_url(400, 300)], "low"), ([png_url(400, 300)], "high"))
        )
    assert 200 < low - none < 260
    assert 350 < high - none < 404


def test_a_picture_that_is_far_too_long(sdk: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="200 times as long") as found:
        ask(sdk, png_url(402, 2))
    assert found.value.param == "messages.0.content.0.image_url.url"


def test_films_are_refused_by_name(sdk: OpenAI) -> None:
    part: Any = {"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AAAA"}}
    with pytest.raises(openai.BadRequestError, match="video_url"):
        sdk.chat.completions.create(model="tiny-qwen", messages=[{"role": "user", "content": [part]}])


def test_words_for_pictures_in_a_text_show_nothing(sdk: OpenAI) -> None:
    text = "<|vision_start|><|image_pad|><|vision_end|>"
    beside = ask(sdk, png_url(seed=1), text=text, max_tokens=1)
    assert beside.choices[0].finish_reason == "length"


@pytest.mark.parametrize("write", [write_tiny_qwen_vl, write_tiny_qwen3_vl])
def test_blocks_come_back_from_disk(write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BlockTier, "PATIENCE", math.inf)  # though so small a model computes them sooner
    directory = write(tmp_path / "tiny-qwen")
    found = []
    for _ in range(2):
        with served(directory, prefix_cache_dir=tmp_path / "kept") as sdk:
            found.append(ask(sdk, png_url(seed=7), png_url(60, 20, seed=8)))
    assert [cached(answer) > 2 * ROWS for answer in found] == [False, True]
    assert logprobs_of(found[0]) == logprobs_of(found[1])

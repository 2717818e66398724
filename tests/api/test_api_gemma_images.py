"""The official client shows pictures to Gemmas of random weights, on a server with a cache on disk."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("PIL", reason="needs the extra: pip install 'llm-serving[images]'")

from openai import OpenAI
from picture_client import TEXT, ask, cached, logprobs_of, served
from pictures import png_url
from tiny_gemma import ROWS, write_tiny_gemma
from tiny_gemma4_vl import write_tiny_gemma4_large_vl, write_tiny_gemma4_small_vl

from llm_serving.engine.tier import BlockTier


@pytest.fixture(
    scope="module", params=[write_tiny_gemma, write_tiny_gemma4_large_vl, write_tiny_gemma4_small_vl]
)
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    written: Path = request.param(tmp_path_factory.mktemp("gemma") / "tiny-gemma")
    return written


@pytest.fixture(scope="module")
def sdk(directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenAI]:
    with served(directory, prefix_cache_dir=tmp_path_factory.mktemp("kv")) as opened:
        yield opened


def test_answers_depend_on_the_picture(sdk: OpenAI) -> None:
    first, again, other, none = (
        ask(sdk, *urls) for urls in ([png_url(seed=1)], [png_url(seed=1)], [png_url(seed=2)], [])
    )
    assert logprobs_of(first) == logprobs_of(again), "from the cache, bit for bit"
    assert logprobs_of(first) != logprobs_of(other)
    assert (cached(first), cached(other)) == (0, 0), "the picture begins in the first block"
    assert cached(again) > ROWS
    assert first.usage.prompt_tokens - none.usage.prompt_tokens >= ROWS + 2
    assert "vision" in sdk.models.retrieve("tiny-gemma").model_extra["capabilities"]


def test_a_prompt_that_ends_early_shares_no_half_of_a_picture(sdk: OpenAI) -> None:
    long = ask(sdk, png_url(seed=4), png_url(seed=5))
    short = ask(sdk, png_url(seed=4), text="")
    assert logprobs_of(ask(sdk, png_url(seed=4), text="")) == logprobs_of(short)
    assert logprobs_of(ask(sdk, png_url(seed=4), png_url(seed=5))) == logprobs_of(long)


def test_company_changes_nothing(sdk: OpenAI) -> None:
    asked = [[png_url(seed=seed), png_url(seed=seed + 1)] for seed in range(10, 16)]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(lambda urls: logprobs_of(ask(sdk, *urls)), asked))
    alone = [logprobs_of(ask(sdk, *urls, text=f"{TEXT}")) for urls in asked]
    assert together == alone


def test_blocks_come_back_from_disk(directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BlockTier, "PATIENCE", math.inf)  # though so small a model computes them sooner
    found = []
    for _ in range(2):
        with served(directory, prefix_cache_dir=tmp_path) as sdk:
            found.append(ask(sdk, png_url(seed=7), png_url(seed=8)))
    assert [cached(answer) > 2 * ROWS for answer in found] == [False, True]
    assert logprobs_of(found[0]) == logprobs_of(found[1])

"""Requests that an event loop reads one after another become one batch."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from llm_serving.backends.fake_encoder import FakeEncoder
from llm_serving.embeddings.batcher import Batcher
from llm_serving.embeddings.encoder import EncoderInput
from llm_serving.errors import RequestCancelled

pytestmark = pytest.mark.anyio


def text(length: int) -> EncoderInput:
    return EncoderInput([7] * length)


@asynccontextmanager
async def running() -> AsyncIterator[tuple[Batcher, FakeEncoder]]:
    encoder = FakeEncoder()
    batcher = Batcher(encoder, max_batch_tokens=64, max_queue_texts=1_000_000)
    try:
        yield batcher, encoder
    finally:
        await batcher.close()


async def test_requests_that_are_read_at_once_share_a_batch() -> None:
    async def late(rounds: int) -> None:
        for _ in range(rounds):
            await asyncio.sleep(0)
        await batcher.encode([text(4)])

    async with running() as (batcher, encoder):
        await asyncio.gather(*(late(rounds) for rounds in range(6)))
        assert encoder.batches == [[4] * 6]


async def test_a_loop_that_never_ends_reading_is_answered_all_the_same() -> None:
    async with running() as (batcher, _):
        first = asyncio.ensure_future(batcher.encode([text(4)]))
        others = []
        while not first.done():
            others.append(asyncio.ensure_future(batcher.encode([text(4)])))
            await asyncio.sleep(0)
        for other in others:
            other.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        assert (await first).shape == (1, batcher.dimensions)


async def test_a_request_that_leaves_while_others_are_read_is_never_encoded() -> None:
    async with running() as (batcher, encoder):
        leaving = asyncio.ensure_future(batcher.encode([text(9)]))
        await asyncio.sleep(0)
        assert batcher.stats().num_waiting == 1
        leaving.cancel()
        await batcher.encode([text(4)])
        assert leaving.cancelled()
        assert encoder.batches == [[4]]


async def test_closing_ends_requests_that_are_being_read() -> None:
    async with running() as (batcher, encoder):
        waiting = asyncio.ensure_future(batcher.encode([text(9)]))
        await asyncio.sleep(0)
        await batcher.close()
        with pytest.raises(RequestCancelled):
            await waiting
        assert encoder.batches == []

"""Batches over requests: order, fairness, overload, failure, cancellation, the end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from patience import PATIENCE_S, until

from llm_serving.backends.fake_encoder import FakeEncoder
from llm_serving.embeddings.batcher import BATCH_SIZES, Batcher
from llm_serving.embeddings.encoder import EncoderInput
from llm_serving.errors import EngineDead, Overloaded, RequestCancelled

pytestmark = pytest.mark.anyio


def text(length: int, token: int = 7) -> EncoderInput:
    return EncoderInput([token] * length)


@asynccontextmanager
async def running(
    max_batch_tokens: int = 64, max_queue_texts: int = 1000, **behaviour: Any
) -> AsyncIterator[tuple[Batcher, FakeEncoder]]:
    encoder = FakeEncoder(**behaviour)
    batcher = Batcher(encoder, max_batch_tokens=max_batch_tokens, max_queue_texts=max_queue_texts)
    try:
        yield batcher, encoder
    finally:
        if behaviour.get("gate"):
            behaviour["gate"].set()
        await batcher.close()


async def test_rows_come_in_the_order_of_the_request_and_as_if_alone() -> None:
    random = np.random.default_rng(1)
    texts = [EncoderInput(random.integers(3, 4000, length).tolist()) for length in random.integers(1, 60, 90)]
    async with running() as (batcher, encoder):
        parts = await asyncio.gather(*(batcher.encode(texts[i : i + 13]) for i in range(0, 90, 13)))
        alone = FakeEncoder()
        expected = np.concatenate([alone.encode([item]) for item in texts])
        assert np.concatenate(parts).tobytes() == expected.tobytes()
        assert all(sum(batch) <= 64 for batch in encoder.batches)
        stats = batcher.stats()
        assert (stats.num_requests, stats.num_texts, stats.num_waiting, stats.num_running) == (7, 90, 0, 0)
        assert stats.num_tokens == sum(len(item.token_ids) for item in texts)
        assert stats.num_batches == len(encoder.batches) == sum(stats.batch_sizes)
        assert len(stats.batch_sizes) == len(BATCH_SIZES) + 1


async def test_nothing_to_encode_needs_no_encoder() -> None:
    async with running() as (batcher, encoder):
        assert (await batcher.encode([])).shape == (0, batcher.dimensions)
        assert encoder.batches == []


async def test_concurrent_singles_share_batches() -> None:
    gate = threading.Event()
    async with running(gate=gate) as (batcher, encoder):
        requests = [asyncio.ensure_future(batcher.encode([text(4)]))]
        await until(lambda: encoder.batches)
        requests += [asyncio.ensure_future(batcher.encode([text(4)])) for _ in range(16)]
        await until(lambda: batcher.stats().num_waiting == 16)
        gate.set()
        await asyncio.gather(*requests)
        assert [len(batch) for batch in encoder.batches] == [1, 16]
        assert batcher.stats().batch_sizes[:6] == (1, 0, 0, 0, 1, 0)


async def test_a_text_over_the_budget_goes_alone() -> None:
    async with running(max_batch_tokens=10) as (batcher, encoder):
        await batcher.encode([text(30), text(5), text(5), text(30)])
        assert encoder.batches == [[5, 5], [30], [30]]


async def test_a_short_text_behind_thousands_is_in_the_next_batch() -> None:
    gate = threading.Event()
    async with running(gate=gate, max_queue_texts=10_000) as (batcher, encoder):
        big = asyncio.ensure_future(batcher.encode([text(8)] * 3000))
        await until(lambda: encoder.batches)
        singles = [asyncio.ensure_future(batcher.encode([text(length)])) for length in (3, 60, 5)]
        await until(lambda: batcher.stats().num_requests == 4)
        gate.set()
        await asyncio.gather(*singles)
        seen = [next(i for i, batch in enumerate(encoder.batches) if n in batch) for n in (3, 60, 5)]
        assert max(seen) <= 3
        assert (await big).shape == (3000, batcher.dimensions)
        assert len(encoder.batches) > 300, "and the thousands had hardly begun"


async def test_newcomers_without_end_starve_nobody() -> None:
    """Every newcomer may be next; the long text and the big request get their share all the same."""
    async with running(max_batch_tokens=16, seconds=0.0002) as (batcher, _):
        stop = False

        async def knock() -> int:
            num = 0
            while not stop:
                await batcher.encode([text(4)])
                num += 1
            return num

        knockers = [asyncio.ensure_future(knock()) for _ in range(12)]
        await asyncio.sleep(0.01)
        patient = asyncio.gather(batcher.encode([text(200)]), batcher.encode([text(4)] * 40))
        await asyncio.wait_for(patient, PATIENCE_S)
        stop = True
        assert all(await asyncio.gather(*knockers))


async def test_two_big_requests_share_evenly() -> None:
    gate = threading.Event()
    async with running(gate=gate) as (batcher, encoder):
        first = asyncio.ensure_future(batcher.encode([text(8)] * 160))
        await until(lambda: encoder.batches)
        second = asyncio.ensure_future(batcher.encode([text(7)] * 40))
        await until(lambda: batcher.stats().num_requests == 2)
        gate.set()
        await second
        shared = [length for batch in encoder.batches[1:6] for length in batch]
        assert abs(8 * shared.count(8) - 7 * shared.count(7)) <= 16
        await first


async def test_overload_is_refused_at_the_door() -> None:
    gate = threading.Event()
    async with running(gate=gate, max_queue_texts=4) as (batcher, encoder):
        batcher.require_room(10_000)  # the queue is empty
        running_one = asyncio.ensure_future(batcher.encode([text(64)]))
        await until(lambda: encoder.batches)
        waiting = asyncio.ensure_future(batcher.encode([text(4)] * 3))
        await until(lambda: batcher.stats().num_waiting == 3)
        batcher.require_room(1)
        with pytest.raises(Overloaded, match="3 texts are waiting; no room for 2"):
            batcher.require_room(2)
        with pytest.raises(Overloaded):
            await batcher.encode([text(4)] * 2)
        gate.set()
        assert len(await waiting) == 3
        await running_one
        assert len(await batcher.encode([text(4)] * 50)) == 50


async def test_failure_reaches_exactly_the_waiters_of_that_batch() -> None:
    gate = threading.Event()
    async with running(gate=gate, fails_on=666, max_batch_tokens=10) as (batcher, encoder):
        first = asyncio.ensure_future(batcher.encode([text(10)]))
        await until(lambda: encoder.batches)
        together = [asyncio.ensure_future(batcher.encode([text(4, token)])) for token in (666, 7)]
        await until(lambda: batcher.stats().num_waiting == 2)
        later = asyncio.ensure_future(batcher.encode([text(10)]))
        gate.set()
        assert len(await first) == len(await later) == 1
        errors = await asyncio.gather(*together, return_exceptions=True)
        assert errors[0] is not errors[1]
        for error in errors:
            assert isinstance(error, RuntimeError)
            assert "as it was told to" in str(error.__cause__)


async def test_failure_of_one_batch_drops_the_rest_of_its_request() -> None:
    async with running(fails_on=666, max_batch_tokens=4) as (batcher, encoder):
        with pytest.raises(RuntimeError):
            await batcher.encode([text(3), text(4, 666), *[text(4)] * 100])
        await until(lambda: not batcher.stats().num_waiting)
        assert len(encoder.batches) == 2
        assert len(await batcher.encode([text(2)])) == 1


async def test_not_a_number_never_leaves() -> None:
    gate = threading.Event()
    async with running(gate=gate, nan_on=13) as (batcher, encoder):
        first = asyncio.ensure_future(batcher.encode([text(64)]))
        await until(lambda: encoder.batches)
        good = asyncio.ensure_future(batcher.encode([text(3)]))
        bad = asyncio.ensure_future(batcher.encode([text(3), text(3, 13)]))
        gate.set()
        with pytest.raises(RuntimeError):
            await bad
        assert np.isfinite(await good).all()
        await first


async def test_a_dead_worker_is_told_to_everybody() -> None:
    gate = threading.Event()
    async with running(gate=gate, dies_on=666) as (batcher, encoder):
        requests = [asyncio.ensure_future(batcher.encode([text(40, 666)] * 3))]
        await until(lambda: encoder.batches)
        requests.append(asyncio.ensure_future(batcher.encode([text(60)])))
        await until(lambda: batcher.stats().num_requests == 2)
        gate.set()
        for error in await asyncio.gather(*requests, return_exceptions=True):
            assert isinstance(error, EngineDead)
            assert isinstance(error.cause, SystemExit)
        with pytest.raises(EngineDead):
            await batcher.encode([text(1)])
        with pytest.raises(EngineDead):
            batcher.require_room(1)
        assert batcher.stats().num_waiting == batcher.stats().num_running == 0


async def test_cancelling_drops_what_has_not_run_and_nobody_else() -> None:
    gate = threading.Event()
    async with running(gate=gate, max_batch_tokens=8) as (batcher, encoder):
        leaver = asyncio.ensure_future(batcher.encode([text(8)] * 500))
        await until(lambda: encoder.batches)
        stayer = asyncio.ensure_future(batcher.encode([text(8)] * 3))
        await until(lambda: batcher.stats().num_requests == 2)
        leaver.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaver
        assert batcher.stats().num_waiting == 3
        gate.set()
        assert len(await stayer) == 3
        assert len(encoder.batches) == 4


async def test_draining_finishes_what_was_accepted_and_refuses_what_comes() -> None:
    async with running(max_batch_tokens=8, seconds=0.001) as (batcher, encoder):
        request = asyncio.ensure_future(batcher.encode([text(8)] * 20))
        await until(lambda: encoder.batches)
        closing = asyncio.ensure_future(batcher.close(PATIENCE_S))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="takes no new requests"):
            await batcher.encode([text(1)])
        assert len(await request) == 20
        await closing
        assert encoder.is_closed


async def test_closing_cancels_what_does_not_finish_in_time() -> None:
    gate = threading.Event()
    async with running(gate=gate, max_batch_tokens=8) as (batcher, encoder):
        requests = [asyncio.ensure_future(batcher.encode([text(8)] * 2)) for _ in range(3)]
        await until(lambda: encoder.batches)
        closing = asyncio.ensure_future(batcher.close(0.005))
        await asyncio.sleep(0.02)
        gate.set()
        await closing
        for error in await asyncio.gather(*requests, return_exceptions=True):
            assert isinstance(error, RequestCancelled)
        assert encoder.is_closed
        await batcher.close()


async def test_closing_an_unused_batcher() -> None:
    async with running() as (batcher, encoder):
        await batcher.close(PATIENCE_S)
        assert encoder.is_closed


def test_serves_several_loops_and_outlives_one_that_went_away() -> None:
    gate = threading.Event()
    encoder = FakeEncoder(gate=gate)
    batcher = Batcher(encoder, max_batch_tokens=64, max_queue_texts=100)

    async def leave() -> None:
        asyncio.ensure_future(batcher.encode([text(3)] * 50)).add_done_callback(lambda done: done.cancelled())
        await until(lambda: encoder.batches)

    asyncio.run(leave())
    gate.set()
    results = [asyncio.run(batcher.encode([text(3)])).tobytes() for _ in range(3)]
    assert len(set(results)) == 1
    asyncio.run(batcher.close())

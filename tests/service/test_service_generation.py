"""Many sequences as one stream: nothing lost, nothing left running."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from llm_serving.backends.fake import FakeTokenizer, load_fake_engine
from llm_serving.engine.protocol import EngineOptions
from llm_serving.errors import ContextLengthExceeded, EngineDead, Overloaded, RequestCancelled
from llm_serving.service.generation import (
    Generation,
    GenerationDefaults,
    GenerationOptions,
    start_generation,
)
from llm_serving.service.model import ChatModel
from llm_serving.service.slot import ModelSlot, ModelState

pytestmark = pytest.mark.anyio

DEFAULTS = GenerationDefaults(max_tokens=1000, temperature=0.0)
PROMPT = [1, 2, 3]


@asynccontextmanager
async def ready_slot(options: EngineOptions | None = None, **behaviour: Any) -> AsyncIterator[ModelSlot]:
    engine = load_fake_engine(options or EngineOptions(), **behaviour)
    slot = ModelSlot("m", lambda: ChatModel("m", engine, FakeTokenizer()))
    slot.start()
    await slot.settled()
    yield slot
    await slot.close()


async def start(slot: ModelSlot, name: str = "r", num_prompts: int = 1, **options: Any) -> Generation:
    prompts = [[*PROMPT, i] for i in range(num_prompts)]
    return await start_generation(slot, slot.get(), name, prompts, GenerationOptions(**options), DEFAULTS)


async def texts_of(generation: Generation) -> list[str]:
    texts = [""] * generation.num_choices
    async for batch in generation:
        assert batch
        for index, event in batch:
            texts[index] += event.text
    return texts


async def idle(slot: ModelSlot) -> None:
    stats = slot.get().engine.stats
    while stats().num_running or stats().num_waiting:
        await asyncio.sleep(0.001)
    assert stats().num_free_blocks == stats().num_blocks


async def test_choices_come_whole_and_in_batches() -> None:
    async with ready_slot(reply="abcdefgh" * 4) as slot:
        async with await start(slot, num_prompts=2, n=3) as generation:
            assert await texts_of(generation) == ["abcdefgh" * 4] * 6
        usage = generation.usage()
        assert (usage.num_prompt, usage.num_completion) == (8, 6 * 33)
        assert sorted(generation.finals) == list(range(6))
        await idle(slot)


async def test_a_slow_reader_gets_all_that_is_there_at_once() -> None:
    async with ready_slot(reply="x" * 100) as slot, await start(slot) as generation:
        sizes = []
        async for batch in generation:
            sizes.append(len(batch))
            while len(sizes) == 1 and slot.get().engine.stats().num_running:
                await asyncio.sleep(0.001)
        assert sum(sizes) == 101
        assert len(sizes) <= 3


@pytest.mark.parametrize("n", [1, 4])
async def test_leaving_ends_everything(n: int) -> None:
    async with ready_slot(random=True, step_seconds=0.002) as slot:
        before = asyncio.all_tasks()
        async with await start(slot, n=n, ignore_eos=True) as generation:
            async for _ in generation:
                break
        assert asyncio.all_tasks() == before
        await idle(slot)


@pytest.mark.parametrize("n", [1, 4])
async def test_being_cancelled_ends_everything(n: int) -> None:
    async with ready_slot(random=True, step_seconds=0.002) as slot:
        before = asyncio.all_tasks()

        async def read() -> None:
            async with await start(slot, n=n, ignore_eos=True) as generation:
                await texts_of(generation)

        task = asyncio.create_task(read())
        while not slot.get().engine.stats().num_running:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert asyncio.all_tasks() == before
        await idle(slot)


async def test_never_read_and_left() -> None:
    async with ready_slot(random=True, step_seconds=0.002) as slot:
        async with await start(slot, n=2, ignore_eos=True):
            pass
        await idle(slot)


async def test_all_are_admitted_or_none() -> None:
    options = EngineOptions(max_concurrency=2, max_queue=1)
    async with ready_slot(options, random=True, step_seconds=0.002) as slot:
        with pytest.raises(Overloaded):
            await start(slot, n=4)
        await idle(slot)
        async with await start(slot, n=3, max_tokens=2) as generation:
            await texts_of(generation)


@pytest.mark.parametrize("n", [1, 3])
async def test_death_of_the_engine_reaches_the_reader_and_the_slot(n: int) -> None:
    async with ready_slot(fail_at_step=4, step_seconds=0.005) as slot:
        async with await start(slot, n=n) as generation:
            with pytest.raises(EngineDead):
                await texts_of(generation)
        assert slot.state is ModelState.FAILED


async def test_close_of_the_engine_cancels() -> None:
    async with (
        ready_slot(random=True, step_seconds=0.002) as slot,
        await start(slot, ignore_eos=True) as generation,
    ):
        await slot.close()
        with pytest.raises(RequestCancelled):
            await texts_of(generation)


async def test_prompt_must_leave_room_for_one_token() -> None:
    async with ready_slot(EngineOptions(context_length=16), random=True) as slot:
        model = slot.get()
        for length, fits in ((15, True), (16, False), (17, False)):
            started = start_generation(slot, model, "r", [[1] * length], GenerationOptions(), DEFAULTS)
            if fits:
                async with await started as generation:
                    await texts_of(generation)
                assert generation.usage().num_completion == 1
            else:
                with pytest.raises(ContextLengthExceeded) as caught:
                    await started
                assert (caught.value.num_prompt, caught.value.limit) == (length, 16)


@pytest.mark.slow
async def test_seeds_wrap_around_and_differ_without_one() -> None:
    async with ready_slot(random=True) as slot:

        async def text(**options: Any) -> list[str]:
            asked = {"temperature": 1.0, "max_tokens": 20, "ignore_eos": True, **options}
            async with await start(slot, **asked) as generation:
                return await texts_of(generation)

        assert await text(seed=-1, n=2) == [*await text(seed=2**64 - 1), *await text(seed=0)]
        assert await text() != await text()
        assert await text(seed=5) == await text(seed=5)


async def test_usage_of_what_was_left_is_what_came_until_then() -> None:
    async with ready_slot(random=True, step_seconds=0.002) as slot:
        generation = await start(slot, n=2, ignore_eos=True)
        async with generation:
            async for _ in generation:
                if generation.usage().num_completion >= 6:
                    break
        usage = generation.usage()
        assert not generation.finals
        assert usage.num_prompt == len(PROMPT) + 1
        assert usage.num_completion >= 6
        await idle(slot)

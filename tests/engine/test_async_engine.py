"""What the contract cannot ask of every engine: scripted failures, stalls, wake-ups."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest
from driving import TOKENIZER, limits, request
from patience import PATIENCE_S, Gate, until, wait_until

from llm_serving.backends.fake import FakeRunner, load_fake_engine
from llm_serving.engine import async_engine
from llm_serving.engine.async_engine import AsyncEngine
from llm_serving.engine.protocol import EngineOptions, Step
from llm_serving.engine.request import FinishReason
from llm_serving.engine.sampler import NumpySampler
from llm_serving.errors import EngineDead, InvalidRequest

pytestmark = pytest.mark.anyio


def engine_on(runner: FakeRunner, **options: object) -> AsyncEngine:
    return AsyncEngine(runner, NumpySampler(), TOKENIZER.token_bytes, EngineOptions(**options), "fake")


async def read(engine: AsyncEngine, name: str, prompt: str = "prompt", **params: object) -> str:
    async with await engine.submit(request(name, prompt, **{"max_tokens": 100, **params})) as stream:
        return "".join([event.text async for event in stream])


@pytest.mark.slow
async def test_the_fake_model_answers_with_a_sentence():
    engine = load_fake_engine(EngineOptions())
    answers = await asyncio.gather(*(read(engine, f"r{i}", f"prompt {i}") for i in range(8)))
    assert len(set(answers)) > 1, "the sentence depends on the prompt"
    assert all(answer.endswith((".", "😀")) for answer in answers)
    assert answers == [await read(engine, "again", f"prompt {i}") for i in range(8)]
    await engine.close()


async def test_death_reaches_the_running_the_waiting_and_all_who_come_later():
    gate = Gate()
    gate.shut()
    runner = FakeRunner(limits(max_sequences=2), fail_at_step=3, before_step=gate.pass_)
    engine = engine_on(runner, max_concurrency=2)
    streams = [await engine.submit(request(f"r{i}", f"{i}", max_tokens=50)) for i in range(5)]
    gate.open()
    errors = []
    for stream in streams:
        with pytest.raises(EngineDead) as caught:
            _ = [event async for event in stream]
        errors.append(caught.value)
        assert [event async for event in stream] == [], "told once"
    assert len(set(map(id, errors))) == 5
    assert {type(error.cause) for error in errors} == {RuntimeError}
    with pytest.raises(EngineDead):
        await engine.submit(request("late", "x"))
    await engine.close(drain_s=5)
    assert runner.is_closed


async def test_death_wakes_a_reader_that_is_already_waiting():
    engine = load_fake_engine(EngineOptions(), fail_at_step=0, step_seconds=0.02)
    with pytest.raises(EngineDead):
        await asyncio.wait_for(read(engine, "r"), PATIENCE_S)
    await engine.close()


async def test_readers_have_their_turn_before_the_next_step(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(async_engine, "READERS_S", 10.0)
    seen: list[int] = []

    class Watching(FakeRunner):
        def run(self, step: Step) -> np.ndarray:
            seen.append(num_read)
            return super().run(step)

    num_read = 0
    engine = engine_on(Watching(limits(), reply="some words to read"))
    async with await engine.submit(request("r", "p", max_tokens=50)) as stream:
        async for _ in stream:
            num_read += 1
    assert seen == list(range(num_read))
    await engine.close()


@pytest.mark.slow
async def test_a_loop_that_is_stuck_holds_up_nobody_for_long():
    engine = engine_on(FakeRunner(limits(), reply="x" * 60))
    async with await engine.submit(request("r", "p", max_tokens=50)) as stream:
        await anext(stream)
        wait_until(lambda: engine.stats().num_generated_tokens == 50, within_s=20)  # on the loop's own thread
        assert len([event async for event in stream]) == 49
    await engine.close()


async def test_one_wake_up_of_the_loop_a_step(monkeypatch: pytest.MonkeyPatch):
    runner = FakeRunner(limits(), reply="a longer reply", step_seconds=0.001)
    engine = engine_on(runner)
    loop = asyncio.get_running_loop()
    original, calls = loop.call_soon_threadsafe, []

    def counting(callback, *args, **kwargs):
        if threading.current_thread().name == "engine":
            calls.append(callback)
        return original(callback, *args, **kwargs)

    monkeypatch.setattr(loop, "call_soon_threadsafe", counting)
    await asyncio.gather(*(read(engine, f"r{i}", f"{i}") for i in range(8)))
    assert 0 < len(calls) <= runner.num_steps
    await engine.close()


@pytest.mark.slow
async def test_a_stalled_step_does_not_stop_the_loop_nor_a_reader_from_leaving():
    gate = Gate()
    gate.shut()
    engine = load_fake_engine(EngineOptions(), before_step=gate.pass_)
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(read(engine, "r"), 0.02)
    gate.open()
    await engine.close()
    assert engine.stats().num_generated_tokens <= 1


async def test_an_id_in_use_is_refused_and_the_first_is_unharmed():
    gate = Gate()
    gate.shut()
    engine = load_fake_engine(EngineOptions(), reply="all of it", before_step=gate.pass_)
    first = asyncio.ensure_future(read(engine, "r"))
    await asyncio.sleep(0)
    with pytest.raises(InvalidRequest, match="'r'"):
        await engine.submit(request("r", "x"))
    gate.open()
    assert await first == "all of it"
    await engine.close()


async def test_an_id_may_be_used_again_when_its_reader_has_left():
    engine = load_fake_engine(EngineOptions(), reply="all of it")
    for _ in range(100):
        async with await engine.submit(request("r", "x")):
            pass
        await until(lambda: not engine.stats().num_running + engine.stats().num_waiting)
        assert await read(engine, "r") == "all of it"
    await engine.close()


async def test_a_bad_request_leaves_nothing_behind():
    engine = load_fake_engine(EngineOptions(), reply="fine")
    with pytest.raises(InvalidRequest):
        await engine.submit(request("r", []))
    assert await read(engine, "r") == "fine"
    await engine.close()


async def test_closing_twice_at_once():
    engine = load_fake_engine(EngineOptions(), step_seconds=0.001)
    stream = await engine.submit(request("r", "x", max_tokens=5, ignore_eos=True))
    slow = asyncio.ensure_future(engine.close(drain_s=30))
    await asyncio.sleep(0)
    await asyncio.wait_for(engine.close(drain_s=30), PATIENCE_S)
    await asyncio.wait_for(slow, PATIENCE_S)
    events = [event async for event in stream]
    assert events[-1].finish_reason is FinishReason.LENGTH, "what was delivered can still be read"


async def test_the_thread_starts_with_the_first_request_and_ends_with_close():
    def engine_threads() -> int:
        return sum(thread.name == "engine" for thread in threading.enumerate())

    before = engine_threads()
    engine = load_fake_engine(EngineOptions(), reply="x")
    assert engine_threads() == before
    await read(engine, "r")
    assert engine_threads() == before + 1
    await engine.close()
    assert engine_threads() == before


@pytest.mark.slow
async def test_same_seed_same_text_under_preemption():
    """A pool so small that sequences throw each other out, through the whole engine."""
    quiet = engine_on(FakeRunner(limits(), random=True))
    gate = Gate()
    gate.shut()
    small = engine_on(FakeRunner(limits(num_blocks=16, max_context=48), random=True, before_step=gate.pass_))

    async def text(engine: AsyncEngine, i: int) -> str:
        params = {"temperature": 1.0, "seed": i, "ignore_eos": True, "max_tokens": 25}
        return await read(engine, f"r{i}", f"{i % 3} prompt", **params)

    alone = [await text(quiet, i) for i in range(12)]
    crowd = asyncio.gather(*(text(small, i) for i in range(12)))
    await until(lambda: small.stats().num_running + small.stats().num_waiting == 12)
    gate.open()
    assert list(await crowd) == alone
    assert small.stats().num_preemptions > 0
    await quiet.close()
    await small.close()

"""What every `Engine` must do. An engine under test answers any prompt of small ids."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest
from engine_factories import FACTORIES
from patience import PATIENCE_S, until

from llm_serving.engine import async_engine
from llm_serving.engine.protocol import Engine, EngineOptions
from llm_serving.engine.request import FinishReason, GenerateRequest, SamplingParams, TokenEvent
from llm_serving.errors import ContextLengthExceeded, Overloaded, RequestCancelled, ServingError

pytestmark = pytest.mark.anyio

PROMPT = [7, 8, 9, 10, 11] * 5


@pytest.fixture(params=FACTORIES)
def make(request: pytest.FixtureRequest) -> Iterator[Callable[..., Engine]]:
    engines: list[Engine] = []

    def make_engine(**options: object) -> Engine:
        engines.append(request.param(EngineOptions(**options)))
        return engines[-1]

    yield make_engine
    for engine in engines:
        asyncio.run(engine.close())


@pytest.fixture
def each_step_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step waits until the readers of the last one have had their turn, however long their loop takes."""
    monkeypatch.setattr(async_engine, "READERS_S", PATIENCE_S)


def request(
    name: str, prompt: list[int] = PROMPT, max_tokens: int = 10, **sampling: object
) -> GenerateRequest:
    params = SamplingParams(max_tokens=max_tokens, **{"temperature": 0.0, **sampling})
    return GenerateRequest(name, prompt, params)


async def collect(engine: Engine, a_request: GenerateRequest) -> list[TokenEvent]:
    async with await engine.submit(a_request) as stream:
        return [event async for event in stream]


def tokens(events: list[TokenEvent]) -> list[int]:
    return [token for event in events for token in event.token_ids]


async def test_events_come_in_order_and_end_once(make):
    engine = make()
    events = await collect(engine, request("r"))
    assert [event.finish_reason for event in events[:-1]] == [None] * (len(events) - 1)
    assert events[-1].finish_reason is FinishReason.LENGTH
    assert {event.request_id for event in events} == {"r"}
    counts = [event.num_completion_tokens for event in events]
    assert counts == sorted(counts)
    assert counts[-1] == len(tokens(events)) == 10
    assert {event.num_prompt_tokens for event in events} == {len(PROMPT)}


async def test_a_stream_is_over_after_its_last_event(make):
    async with await make().submit(request("r", max_tokens=2)) as stream:
        first = [event async for event in stream]
        assert [event async for event in stream] == []
    assert first[-1].finish_reason is not None


@pytest.mark.parametrize("waits", [False, True])
async def test_a_subscriber_gets_what_a_reader_gets(make, waits):
    engine = make()
    read = await collect(engine, request("read"))
    received: list[TokenEvent | ServingError] = []
    async with await engine.submit(request("subscribed")) as stream:
        if waits:  # all events are there before anybody asks
            await until(lambda: not engine.stats().num_running and not engine.stats().num_waiting)
            await asyncio.sleep(0.05)
        stream.subscribe(received.append)
        assert bool(received) == waits
        await until(lambda: bool(received) and received[-1].finish_reason is not None)
    assert tokens(received) == tokens(read)


async def test_a_subscriber_hears_of_the_end_and_nothing_after_leaving(make):
    engine = make()
    stayed: list[TokenEvent | ServingError] = []
    left: list[TokenEvent | ServingError] = []
    async with await engine.submit(request("stays", max_tokens=200)) as stays:
        async with await engine.submit(request("leaves", max_tokens=200)) as leaves:
            stays.subscribe(stayed.append)
            leaves.subscribe(left.append)
        num_left = len(left)
        await engine.close()
        await until(lambda: bool(stayed))
        await asyncio.sleep(0.01)
    last = stayed[-1]
    assert isinstance(last, RequestCancelled) or last.finish_reason is not None
    assert len(left) == num_left


@pytest.mark.slow
async def test_a_seed_gives_the_same_tokens_alone_and_in_company(make):
    def seeded(name: str, seed: int) -> GenerateRequest:
        return request(name, PROMPT[: 5 + seed % 9], temperature=1.0, seed=seed)

    engine, busy = make(), make(max_concurrency=4)
    alone = [tokens(await collect(engine, seeded(f"r{i}", i))) for i in range(10)]
    crowd = await asyncio.gather(*(collect(busy, seeded(f"r{i}", i)) for i in range(10)))
    assert [tokens(events) for events in crowd] == alone
    assert len({tuple(each) for each in alone}) > 5, "different seeds, different tokens"


@pytest.mark.usefixtures("each_step_is_read")
async def test_leaving_the_scope_frees_everything_within_a_step(make):
    engine = make()
    async with await engine.submit(request("r", max_tokens=100)) as stream:
        async for _ in stream:
            break
    await until(lambda: engine.stats().num_running == 0)
    num_blocks = engine.stats().num_blocks
    await until(
        lambda: engine.stats().num_free_blocks == num_blocks
    )  # a moment later, in a thread of its own
    assert engine.stats().num_generated_tokens < 100


async def test_a_cancelled_reader_takes_nobody_with_it(make):
    engine = make()
    reading = asyncio.Event()

    async def read_one() -> None:
        async with await engine.submit(request("gone", max_tokens=100)) as stream:
            await stream.__anext__()
            reading.set()
            await asyncio.Event().wait()

    reader = asyncio.ensure_future(read_one())
    other = asyncio.ensure_future(collect(engine, request("stays", max_tokens=100)))
    await reading.wait()
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    assert len(tokens(await other)) == 100


async def test_leaving_unread_and_leaving_twice(make):
    engine = make()
    stream = await engine.submit(request("r"))
    async with stream:
        pass
    await stream.__aexit__(None, None, None)
    await until(lambda: engine.stats().num_running + engine.stats().num_waiting == 0)
    assert len(tokens(await collect(engine, request("r")))) == 10


@pytest.mark.slow
@pytest.mark.usefixtures("each_step_is_read")
async def test_overload_is_refused_at_the_door(make):
    engine = make(max_concurrency=2, max_queue=3)
    readers = []
    for i in range(5):
        readers.append(await engine.submit(request(f"r{i}", max_tokens=90)))
    with pytest.raises(Overloaded) as caught:
        await engine.submit(request("one too many"))
    assert caught.value.retry_after_s >= 1
    for stream in readers:
        assert [event async for event in stream][-1].finish_reason is FinishReason.LENGTH
    assert len(tokens(await collect(engine, request("later")))) == 10


async def test_what_can_never_fit_is_refused(make):
    engine = make()
    with pytest.raises(ContextLengthExceeded) as caught:
        await engine.submit(request("r", [1] * engine.max_context))
    assert caught.value.num_prompt == engine.max_context
    assert caught.value.limit == engine.max_context


async def test_generation_ends_with_the_context(make):
    engine = make()
    events = await collect(engine, request("r", [1] * (engine.max_context - 6), max_tokens=10**6))
    assert events[-1].finish_reason is FinishReason.LENGTH
    assert len(tokens(events)) == 6


async def test_a_repeated_prompt_is_cached_and_answers_the_same(make):
    engine = make()
    first = await collect(engine, request("first"))
    second = await collect(engine, request("second"))
    assert first[-1].num_cached_tokens == 0
    assert 0 < second[-1].num_cached_tokens < len(PROMPT)
    assert tokens(first) == tokens(second)
    stats = engine.stats()
    assert stats.num_prompt_tokens == 2 * len(PROMPT)
    assert stats.num_cached_tokens == second[-1].num_cached_tokens


async def test_equal_prompts_at_once_share(make):
    engine = make()
    all_events = await asyncio.gather(*(collect(engine, request(f"r{i}")) for i in range(6)))
    cached = sorted(events[-1].num_cached_tokens for events in all_events)
    assert cached[0] == 0
    assert min(cached[1:]) > 0, "one computes, the others share"
    assert len({tuple(tokens(events)) for events in all_events}) == 1


@pytest.mark.usefixtures("each_step_is_read")
async def test_draining_finishes_what_runs_and_refuses_what_comes(make):
    engine = make()
    reader = asyncio.ensure_future(collect(engine, request("r", max_tokens=40)))
    await until(lambda: engine.stats().num_running == 1)
    closing = asyncio.ensure_future(engine.close(drain_s=30))
    await asyncio.sleep(0.002)
    with pytest.raises(Overloaded, match="takes no new requests"):
        await engine.submit(request("late"))
    assert len(tokens(await reader)) == 40
    await closing


async def test_closing_cancels_what_does_not_finish_in_time(make):
    engine = make(max_concurrency=1)
    streams = [await engine.submit(request(f"r{i}", max_tokens=100)) for i in range(50)]
    await asyncio.wait_for(engine.close(drain_s=0.01), PATIENCE_S)
    for stream in streams[-3:]:
        with pytest.raises(RequestCancelled):
            _ = [event async for event in stream]
    await engine.close()
    with pytest.raises(Overloaded):
        await engine.submit(request("late"))


async def test_closing_an_unused_engine(make):
    await make().close(drain_s=30)


def test_serves_several_event_loops_in_turn(make):
    engine = make()
    results = [asyncio.run(collect(engine, request(f"r{i}"))) for i in range(3)]
    assert len({tuple(tokens(events)) for events in results}) == 1


def test_a_reader_whose_loop_is_gone_does_no_harm(make):
    engine = make()

    async def leave_open() -> None:
        await engine.submit(request("lost", max_tokens=100))

    asyncio.run(leave_open())
    assert len(tokens(asyncio.run(collect(engine, request("r"))))) == 10
    asyncio.run(until(lambda: engine.stats().num_running == 0))
    assert engine.stats().num_free_blocks == engine.stats().num_blocks

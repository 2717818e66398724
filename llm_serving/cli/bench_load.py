"""HTTP load: closed loop (a number of clients, each waits for its answer) or open loop (requests
arrive at random, whether or not the server keeps up)."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import orjson

from llm_serving.cli.bench_http import ChatClient, Outcome, Target
from llm_serving.errors import ServingError

_TEXT = (
    "time year people way day man thing woman life child world school state family student group country "
    "problem hand part place case week company system program question work night point home water room "
    "mother area money story fact month lot right study book eye job word business issue side kind head "
    "house service friend father power hour game line end member law car city name team minute idea body"
)
_WORDS = _TEXT.split()
_CALIBRATION_WORDS = 64


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """What to send. Either `clients` (closed loop) or `rate` in requests/s (open loop, Poisson) counts."""

    requests: int
    clients: int = 1
    rate: float | None = None
    warmup: int = 2
    model: str = "default"
    prompt_tokens: int = 128
    shared_prefix: int = 0  # tokens at the start that all prompts have in common
    max_tokens: int = 64
    temperature: float = 0.0
    ignore_eos: bool = True
    seed: int = 0
    timeout_s: float = 120.0  # for one request
    duration_s: float = 600.0  # no request is started later


@dataclass(frozen=True, slots=True)
class LoadResult:
    outcomes: list[Outcome]
    wall_s: float  # first request sent → last answer complete


async def run_load(plan: LoadPlan, target: Target) -> LoadResult:
    """Calibrate, warm up, measure. Raises: ServingError if the server does not answer the first requests."""
    client = ChatClient(target)
    try:
        bodies = await _bodies(plan, client)
        for body in bodies[: plan.warmup]:
            await _must(client, body, plan)
        measured = bodies[plan.warmup :]
        start = time.perf_counter()
        run = _closed_loop if plan.rate is None else _open_loop
        outcomes = await run(plan, client, measured)
        return LoadResult(outcomes, time.perf_counter() - start)
    finally:
        await client.close()


async def _closed_loop(plan: LoadPlan, client: ChatClient, bodies: list[bytes]) -> list[Outcome]:
    waiting = iter(bodies)
    outcomes: list[Outcome] = []
    deadline = time.perf_counter() + plan.duration_s

    async def one_client() -> None:
        for body in waiting:  # shared: each body is taken once
            if time.perf_counter() >= deadline:
                return
            outcomes.append(await client.complete(body, time.perf_counter(), plan.timeout_s))

    await asyncio.gather(*(one_client() for _ in range(plan.clients)))
    return outcomes


async def _open_loop(plan: LoadPlan, client: ChatClient, bodies: list[bytes]) -> list[Outcome]:
    tasks = []
    async for arrival_s, body in _arrivals(plan, bodies):
        # Counted from the planned arrival: a late start is waiting time, not a smaller load.
        tasks.append(asyncio.create_task(client.complete(body, arrival_s, plan.timeout_s)))
    return list(await asyncio.gather(*tasks))


async def _arrivals(plan: LoadPlan, bodies: list[bytes]) -> AsyncIterator[tuple[float, bytes]]:
    draw = random.Random(plan.seed)
    arrival_s = time.perf_counter()
    deadline = arrival_s + plan.duration_s
    for body in bodies:
        arrival_s += draw.expovariate(plan.rate or 1.0)
        if arrival_s >= deadline:
            return
        await asyncio.sleep(max(0.0, arrival_s - time.perf_counter()))
        yield arrival_s, body


async def _bodies(plan: LoadPlan, client: ChatClient) -> list[bytes]:
    """Warm-up and measured requests. Words become tokens at a rate that two small requests find out."""
    draw = random.Random(plan.seed)
    some = await _must(client, _body(plan, _text(draw, _CALIBRATION_WORDS), 1), plan)
    few = await _must(client, _body(plan, _text(draw, 1), 1), plan)
    tokens_per_word = max(0.1, (some.prompt_tokens - few.prompt_tokens) / (_CALIBRATION_WORDS - 1))
    frame = few.prompt_tokens - tokens_per_word  # template and system prompt

    shared = round(min(plan.shared_prefix, plan.prompt_tokens) / tokens_per_word)
    total = max(1, round((plan.prompt_tokens - frame) / tokens_per_word))
    prefix = _text(draw, shared)
    texts = (f"{prefix} {_text(draw, max(1, total - shared))}" for _ in range(plan.warmup + plan.requests))
    return [_body(plan, text.strip(), plan.max_tokens) for text in texts]


def _text(draw: random.Random, num_words: int) -> str:
    return " ".join(draw.choices(_WORDS, k=num_words))


def _body(plan: LoadPlan, text: str, max_tokens: int) -> bytes:
    body = {
        "model": plan.model,
        "messages": [{"role": "user", "content": text}],
        "max_tokens": max_tokens,
        "temperature": plan.temperature,
        "seed": plan.seed,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if plan.ignore_eos:
        body["ignore_eos"] = True
    return orjson.dumps(body)


async def _must(client: ChatClient, body: bytes, plan: LoadPlan) -> Outcome:
    outcome = await client.complete(body, time.perf_counter(), plan.timeout_s)
    if outcome.error:
        remedy = {
            "connect": "Is a server running there?",
            "no usage": "It must send usage at the end of a stream (stream_options.include_usage).",
            "401": "Give a key with --api-key.",
        }.get(outcome.error, "")
        words = [f"The server failed a warm-up request: {outcome.error}.", outcome.detail, remedy]
        raise ServingError(" ".join(word for word in words if word))
    return outcome

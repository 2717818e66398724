"""How much slower does a stream's text come while the same server embeds?

    .venv/bin/python benchmarks/chat_beside_embeddings.py

One client (or `--streams`) reads a stream, first alone, then while another sends requests of 300 texts back
to back. Prints the gap between tokens in both cases, in turns, and the texts embedded a second, by the
server's own counter, while nobody chats and beside the streams.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
import urllib.request
from pathlib import Path

import orjson
import peers
from english import passage, passages
from lean_client import connect, post

from llm_serving.cli.bench_http import ChatClient, parse_target
from llm_serving.models import resolve_model
from llm_serving.native.cpu import cpu_budget

TEXTS, TOKENS = 300, 300


async def gaps_ms(server: peers.Server, streams: int, seed: int) -> list[float]:
    """Between the tokens of each of `streams` answers, in order of size."""
    answers = await asyncio.gather(*(answer_gaps_ms(server, seed + i) for i in range(streams)))
    return sorted(gap for gaps in answers for gap in gaps)


async def answer_gaps_ms(server: peers.Server, seed: int) -> list[float]:
    client = ChatClient(parse_target(server.url, None))
    try:
        body = peers.chat_body(server, passage(100, seed), TOKENS)
        outcome = await client.complete(body, time.perf_counter(), 300)
    finally:
        await client.close()
    if outcome.error:
        raise SystemExit(f"failed: {outcome.error} {outcome.detail}")
    return [gap * 1e3 for gap in outcome.gaps_s]


async def embed(server: peers.Server, request: bytes) -> None:
    """Until cancelled."""
    connection = await connect(server.port)
    while True:
        await connection.ask(request)


async def texts_embedded(server: peers.Server) -> float:
    """Since the server's start; counted after every batch, so also within a request."""

    def read() -> float:
        with urllib.request.urlopen(server.url + "/metrics") as answer:
            lines = answer.read().decode().splitlines()
        return sum(
            float(line.split()[-1]) for line in lines if line.startswith("llm_serving_encoder_texts_total")
        )

    return await asyncio.to_thread(read)


async def turn(server: peers.Server, request: bytes, streams: int, seed: int) -> None:
    alone = await gaps_ms(server, streams, seed)
    embedding = asyncio.create_task(embed(server, request))
    await asyncio.sleep(0.2)
    rates = []
    beside: list[float] = []
    for is_chatting in (False, True):
        before = await texts_embedded(server)
        started_s = time.perf_counter()
        if is_chatting:
            beside = await gaps_ms(server, streams, seed + streams)
        else:
            await asyncio.sleep(1.5)
        seconds = time.perf_counter() - started_s
        rates.append((await texts_embedded(server) - before) / seconds)
    embedding.cancel()
    ratio = statistics.median(beside) / statistics.median(alone)
    print(
        f"| {spread(alone)} | {spread(beside)} | {ratio:.2f} | {rates[0]:.0f} | {rates[1]:.0f} |", flush=True
    )


def spread(ordered: list[float]) -> str:
    return f"{statistics.median(ordered):.1f} / {ordered[int(0.95 * len(ordered))]:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--streams", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--logs", type=Path, default=Path("build"))
    arguments = parser.parse_args()
    arguments.logs.mkdir(exist_ok=True)
    # Guessed tokens come at once, and a median gap would be 0.
    more = ("--speculation", "off")
    server = peers.ours(resolve_model(arguments.model), cpu_budget().threads, 8101, *more)
    print("| alone, p50 / p95 ms | beside embeddings | ratio p50 | texts/s alone | texts/s beside |")
    print("|---|---|---|---|---|")
    body = orjson.dumps({"input": passages(52, TEXTS), "encoding_format": "base64"})
    request = post("/v1/embeddings", body)
    with peers.running(server, arguments.logs):
        streams = arguments.streams
        asyncio.run(turn(server, request, streams, 0))  # the first loads the embedding model: leave it out
        for repeat in range(arguments.repeats):
            asyncio.run(turn(server, request, streams, 2 * streams * (repeat + 1)))


if __name__ == "__main__":
    main()

"""How much slower does a stream's text come while the same server embeds?

    .venv/bin/python benchmarks/chat_beside_embeddings.py

One client reads a stream, first alone, then while a second sends requests of 300 texts back to back. Prints
the gap between tokens in both cases, in turns, and the rate of embeddings.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from pathlib import Path

import orjson
import peers
from english import passage, passages
from lean_client import connect, post

from llm_serving.cli.bench_http import ChatClient, parse_target
from llm_serving.models import resolve_model
from llm_serving.native.cpu import cpu_budget

TEXTS, TOKENS = 300, 400


async def gaps_ms(server: peers.Server, seed: int) -> list[float]:
    """Between the tokens of one answer."""
    client = ChatClient(parse_target(server.url, None))
    try:
        body = peers.chat_body(server, passage(100, seed), TOKENS)
        outcome = await client.complete(body, time.perf_counter(), 300)
    finally:
        await client.close()
    if outcome.error:
        raise SystemExit(f"failed: {outcome.error} {outcome.detail}")
    return sorted(gap * 1e3 for gap in outcome.gaps_s)


async def embed(server: peers.Server, request: bytes, counts: list[int]) -> None:
    """Until cancelled; adds the texts of every answered request to `counts`."""
    connection = await connect(server.port)
    while True:
        await connection.ask(request)
        counts.append(TEXTS)


async def turn(server: peers.Server, request: bytes, seed: int) -> None:
    alone = await gaps_ms(server, seed)
    counts: list[int] = []
    embedding = asyncio.create_task(embed(server, request, counts))
    await asyncio.sleep(0.5)
    started_s = time.perf_counter()
    beside = await gaps_ms(server, seed + 1)
    seconds = time.perf_counter() - started_s
    embedding.cancel()
    ratio = statistics.median(beside) / statistics.median(alone)
    print(f"| {spread(alone)} | {spread(beside)} | {ratio:.2f} | {sum(counts) / seconds:.0f} |", flush=True)


def spread(ordered: list[float]) -> str:
    return f"{statistics.median(ordered):.1f} / {ordered[int(0.95 * len(ordered))]:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--logs", type=Path, default=Path("build"))
    arguments = parser.parse_args()
    arguments.logs.mkdir(exist_ok=True)
    # Guessed tokens come at once, and a median gap would be 0.
    more = ("--speculation", "off")
    server = peers.ours(resolve_model(arguments.model), cpu_budget().threads, 8101, *more)
    print("| alone, p50 / p95 ms | beside embeddings | ratio p50 | texts/s |\n|---|---|---|---|")
    body = orjson.dumps({"input": passages(52, TEXTS), "encoding_format": "base64"})
    request = post("/v1/embeddings", body)
    with peers.running(server, arguments.logs):
        asyncio.run(turn(server, request, 0))  # the first loads the embedding model: leave it out
        for repeat in range(arguments.repeats):
            asyncio.run(turn(server, request, 2 * repeat + 2))


if __name__ == "__main__":
    main()

"""The load client reads whatever framing a server uses, and names what went wrong."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import click
import orjson
import pytest
from patience import PATIENCE_S
from tiny_openai_server import Reply, TinyServer

from llm_serving.cli.bench_http import ChatClient, Outcome, parse_target

BODY = orjson.dumps({"messages": [{"role": "user", "content": "a b c"}]})


def complete(server: TinyServer, count: int = 1, timeout_s: float = PATIENCE_S) -> list[Outcome]:
    async def run() -> list[Outcome]:
        client = ChatClient(parse_target(server.url, None))
        try:
            return [await client.complete(BODY, time.perf_counter(), timeout_s) for _ in range(count)]
        finally:
            await client.close()

    return asyncio.run(run())


@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("cut", [0, 1, 7, 100_000])
def test_any_framing_gives_the_same_facts(server: TinyServer, framing: str, line_end: str, cut: int) -> None:
    server.reply = Reply(framing=framing, line_end=line_end, cut=cut, output_tokens=11)
    (outcome,) = complete(server)
    assert outcome.error == ""
    assert (outcome.prompt_tokens, outcome.output_tokens, outcome.cached_tokens) == (16, 11, 4)
    assert len(outcome.gaps_s) == 2
    assert outcome.start_s <= outcome.first_s <= outcome.last_s <= outcome.end_s


@pytest.mark.parametrize(("framing", "connections"), [("chunked", 1), ("length", 1), ("close", 3)])
def test_connections_are_kept_when_the_framing_allows(
    server: TinyServer, framing: str, connections: int
) -> None:
    server.reply = Reply(framing=framing)
    assert [outcome.error for outcome in complete(server, 3)] == ["", "", ""]
    assert server.num_connections == connections


def test_an_idle_connection_that_was_closed_is_opened_again(server: TinyServer) -> None:
    server.reply = Reply(hang_up=True)
    assert [outcome.error for outcome in complete(server, 3)] == ["", "", ""]


@pytest.mark.parametrize(
    ("reply", "error", "detail"),
    [
        (Reply(status=429), "429", "not today"),
        (Reply(status=500), "500", "not today"),
        (Reply(fail_after=3), "stream", "the engine died"),
        (Reply(send_usage=False), "no usage", ""),
        (Reply(drop_after=3), "closed", ""),
        (Reply(drop_after=0), "closed", ""),
        (Reply(stall_after=3), "timeout", ""),
    ],
)
def test_failures_have_names(server: TinyServer, reply: Reply, error: str, detail: str) -> None:
    server.reply = reply
    (outcome,) = complete(server, timeout_s=0.1 if error == "timeout" else PATIENCE_S)
    assert outcome.error == error
    assert detail in outcome.detail


def test_nobody_listens() -> None:
    async def run() -> Outcome:
        client = ChatClient(parse_target("http://127.0.0.1:9", None))
        return await client.complete(BODY, time.perf_counter(), PATIENCE_S)

    assert asyncio.run(run()).error == "connect"


@pytest.mark.parametrize(
    ("url", "facts"),
    [
        ("127.0.0.1:8001", ("127.0.0.1", 8001, False, b"POST /v1/chat/completions ")),
        ("http://host/v1/", ("host", 80, False, b"POST /v1/chat/completions ")),
        ("https://host/base", ("host", 443, True, b"POST /base/v1/chat/completions ")),
        ("http://[::1]:80", ("::1", 80, False, b"POST /v1/chat/completions ")),
    ],
)
def test_addresses(url: str, facts: Sequence[object]) -> None:
    target = parse_target(url, "key")
    assert (target.host, target.port, target.tls) == tuple(facts[:3])
    assert target.head.startswith(facts[3])  # type: ignore[arg-type]
    assert b"\r\nAuthorization: Bearer key\r\n" in target.head


@pytest.mark.parametrize("url", ["ftp://host", "http://", "http://host:99999999", ""])
def test_bad_addresses_are_usage_errors(url: str) -> None:
    with pytest.raises(click.BadParameter, match="not an address"):
        parse_target(url, None)

"""Finds the models of a server, and asks it one check after the other."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

import httpx

from llm_serving.cli.conformance import (
    auth,
    bad_requests,
    basics,
    completions,
    embeddings,
    limits,
    responses,
    robustness,
    stream,
    structured,
)
from llm_serving.cli.conformance.check import Check, Failed, Skipped, Status, Verdict, short, valid
from llm_serving.cli.conformance.server import ASK, CHAT, MISSING, Server
from llm_serving.errors import ServingError

GROUPS: Mapping[str, Sequence[Check]] = {
    "basics": basics.CHECKS,
    "stream": stream.CHECKS,
    "limits": limits.CHECKS,
    "errors": bad_requests.CHECKS,
    "structured": structured.CHECKS,
    "completions": completions.CHECKS,
    "responses": responses.CHECKS,
    "embeddings": embeddings.CHECKS,
    "auth": auth.CHECKS,
    "robustness": robustness.CHECKS,
}
_CANDIDATES = 8  # models of the list that are tried
_SHAPES = (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, RecursionError)
_TIMEOUTS = (asyncio.TimeoutError, TimeoutError)


async def find_models(server: Server, timeout_s: float, end_s: float) -> None:
    """Sets the models that were not named: the first listed that chats, the first that embeds.

    None is tried after `end_s` of `time.monotonic()`. Raises: ServingError if nobody answers, or the key is
    refused.
    """

    async def first(answers: Callable[[Server, str], Awaitable[bool]]) -> str:
        for name in listed[:_CANDIDATES]:
            if time.monotonic() < end_s and await asyncio.wait_for(answers(server, name), timeout_s):
                return name
        return ""

    try:
        listed = await asyncio.wait_for(_listed(server), timeout_s)
        server.model = server.model or await first(_chats)
        server.embedding_model = server.embedding_model or await first(_embeds)
    except (httpx.HTTPError, httpx.InvalidURL, Failed, *_TIMEOUTS) as error:
        said = str(error) or type(error).__name__
        raise ServingError(f"No answer from {server.base}: {said}. Is a server running there?") from error


async def _listed(server: Server) -> list[str]:
    answer = await server.ask("GET", "/models")
    if answer.status in (401, 403):
        raise ServingError(f"{server.base} asks for another key: give it with --api-key. {answer}")
    try:
        return [valid(str(model["id"])) for model in answer.json()["data"]] or ["default"]
    except (Failed, *_SHAPES):
        return ["default"]


async def _chats(server: Server, name: str) -> bool:
    body = {"model": name, "messages": ASK, "max_tokens": 1}
    return (await server.ask("POST", CHAT, body)).status not in (400, 422, *MISSING)


async def _embeds(server: Server, name: str) -> bool:
    return (await server.ask("POST", "/embeddings", {"model": name, "input": "One"})).status == 200


async def run_checks(
    server: Server,
    groups: Sequence[str],
    timeout_s: float,
    end_s: float,
    on_verdict: Callable[[Verdict], None],
) -> list[Verdict]:
    """Every check of `groups`, each of at most `timeout_s`; after `end_s` all are skipped."""
    verdicts = []
    for group in groups:
        for check in GROUPS[group]:
            left_s = end_s - time.monotonic()
            verdict = await _judge(server, group, check, min(timeout_s, left_s))
            on_verdict(verdict)
            verdicts.append(verdict)
    return verdicts


async def _judge(server: Server, group: str, check: Check, timeout_s: float) -> Verdict:
    server.sent = ""
    start_s = time.monotonic()
    status: Status
    try:
        if timeout_s <= 0:
            raise Skipped("the time for all checks is over")
        seen = await asyncio.wait_for(check.run(server), timeout_s)
        status = "info" if check.is_info else "passed"
    except Skipped as skipped:
        status, seen = "skipped", str(skipped)
    except Failed as failed:
        status, seen = "failed", str(failed)
    except _TIMEOUTS:
        status, seen = "failed", f"no answer within {timeout_s:.0f} s"
    except httpx.HTTPError as error:
        status, seen = "failed", f"the connection broke: {type(error).__name__}: {error}"
    except _SHAPES as error:
        status, seen = "failed", f"an answer of another shape: {type(error).__name__}: {short(error)}"
    seconds = time.monotonic() - start_s
    seen, sent = valid(seen), server.sent
    return Verdict(group, check.name, check.expected, check.source, status, seen, sent, seconds)

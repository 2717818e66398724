"""Group `limits`: what bounds, steers and explains an answer."""

from __future__ import annotations

import asyncio
from typing import Any

from llm_serving.cli.conformance.check import Check, Skipped, expect, short
from llm_serving.cli.conformance.reading import content_of, is_number, some
from llm_serving.cli.conformance.server import Server

_DRAWN: dict[str, Any] = {"temperature": 1.0, "seed": 11, "max_tokens": 16}
_BIASED = ((1500, 1501), (300, 301))  # ids that are words or pieces of words in all usual vocabularies


async def _max_tokens(server: Server) -> str:
    answer = await server.once("five tokens", lambda: server.chat(max_tokens=5))
    count = answer["usage"]["completion_tokens"]
    expect(count <= 5, f"{count} tokens: {short(content_of(answer))!r}")
    return ""


async def _max_completion_tokens(server: Server) -> str:
    body = server.chat_body(max_completion_tokens=5)
    del body["max_tokens"]
    answer = await server.post("/chat/completions", body)
    count = answer["usage"]["completion_tokens"]
    expect(count <= 5, f"{count} tokens: {short(content_of(answer))!r}")
    older = await server.once("five tokens", lambda: server.chat(max_tokens=5))
    expect(count == older["usage"]["completion_tokens"], f"{count} tokens, unlike with max_tokens")
    return ""


async def _finish_length(server: Server) -> str:
    answer = await server.once("five tokens", lambda: server.chat(max_tokens=5))
    reason = answer["choices"][0]["finish_reason"]
    if answer["usage"]["completion_tokens"] < 5:
        raise Skipped("the model ended before the limit")
    expect(reason == "length", f"finish_reason {reason!r} after the fifth token")
    return ""


async def _n(server: Server) -> str:
    answer = await server.chat(may_refuse=True, n=2)
    indices = [choice["index"] for choice in answer["choices"]]
    expect(sorted(indices) == [0, 1], f"the indices of choices are {indices}")
    return ""


async def _n_streamed(server: Server) -> str:
    stream = await server.chat_stream(may_refuse=True, n=2)
    for index in (0, 1):
        reasons = stream.finish_reasons(index)
        expect(len(reasons) == 1, f"finish reasons of choice {index}: {reasons}")
    return ""


async def _stopped(server: Server, as_list: bool) -> str:
    whole = content_of(await server.once("whole", server.chat))
    if len(whole) < 16:
        raise Skipped(f"the answer is too short to be stopped in: {whole!r}")
    stop = whole[8:11]
    answer = await server.chat(stop=["\x00none", stop] if as_list else stop)
    seen, reason = content_of(answer), answer["choices"][0]["finish_reason"]
    expect(stop not in seen, f"the stop string {stop!r} in {short(seen)!r}")
    if not whole.startswith(seen):
        raise Skipped("answers do not repeat, see seed")
    expected = whole[: whole.find(stop)]
    expect(seen == expected, f"stopped by {stop!r} behind {short(seen)!r}, not behind {short(expected)!r}")
    expect(reason == "stop", f"finish_reason {reason!r} at a stop string")
    return ""


async def _stop_text(server: Server) -> str:
    return await _stopped(server, as_list=False)


async def _stop_list(server: Server) -> str:
    return await _stopped(server, as_list=True)


async def _explained(server: Server) -> dict[str, Any]:
    return await server.once(
        "logprobs", lambda: server.chat(may_refuse=True, logprobs=True, top_logprobs=3, max_tokens=8)
    )


async def _tokens(server: Server) -> list[dict[str, Any]]:
    logprobs = (await _explained(server))["choices"][0].get("logprobs")
    expect(logprobs and isinstance(logprobs.get("content"), list), f"logprobs is {short(logprobs)}")
    tokens: list[dict[str, Any]] = logprobs["content"]
    expect(tokens, "logprobs.content is empty")
    return tokens


async def _logprobs(server: Server) -> str:
    answer = await _explained(server)
    tokens = await _tokens(server)
    for token in tokens:
        expect(isinstance(token["token"], str), f"a token {short(token)}")
        expect(is_number(token["logprob"]) and token["logprob"] <= 1e-6, f"a logprob {token['logprob']!r}")
        raw = token.get("bytes")
        expect(raw is None or all(type(b) is int and 0 <= b < 256 for b in raw), f"bytes {short(raw)}")
    content = some(content_of(answer))
    if all(token.get("bytes") is not None for token in tokens):
        said = b"".join(bytes(token["bytes"]) for token in tokens).decode("utf-8", "replace")
    else:
        said = "".join(token["token"] for token in tokens)
    expect(content.strip() in said, f"tokens say {short(said)!r}, the answer {short(content)!r}")
    return ""


async def _top_logprobs(server: Server) -> str:
    for token in await _tokens(server):
        top = token["top_logprobs"]
        expect(len(top) == 3, f"{len(top)} likeliest tokens in place of 3: {short(token)}")
        values = [other["logprob"] for other in top]
        expect(values == sorted(values, reverse=True), f"not the likeliest first: {values}")
        best = top[0]["logprob"]
        expect(
            abs(token["logprob"] - best) < 1e-3, f"a greedy token that is not the likeliest: {short(token)}"
        )
    return ""


async def _no_logprobs(server: Server) -> str:
    logprobs = (await server.once("whole", server.chat))["choices"][0].get("logprobs")
    expect(logprobs is None, f"logprobs is {short(logprobs)}")
    return ""


async def _forced(server: Server) -> str:
    answer: dict[str, Any] = {}
    for first, _ in _BIASED:
        try:
            answer = await server.chat(may_refuse=True, logit_bias={str(first): 100}, max_tokens=6)
            break
        except Skipped:
            if first == _BIASED[-1][0]:
                raise
    text = some(content_of(answer).strip())
    period = next((n for n in range(1, len(text) // 3 + 2) if text[n:] == text[:-n]), 0)
    expect(period or len(text) == 1, f"with +100 for one token the model said {short(text)!r}")
    return ""


async def _ids_of(server: Server, text: str) -> set[int]:
    """Token ids of a text, by the route that llama.cpp's and vLLM's servers have. Raises: Skipped."""
    for name in ("content", "prompt"):  # llama.cpp's name first: it takes the other for an empty text
        found = await server.ask("POST", "/tokenize", {"model": server.model, name: text}, at_root=True)
        if found.status == 200:
            return {token for token in found.json()["tokens"] if isinstance(token, int)}
    raise Skipped("no route /tokenize that tells the ids of tokens")


async def _forbidden(server: Server) -> str:
    piece = (await _tokens(server))[0]["token"]
    word = piece.strip()
    if len(word) < 2:
        raise Skipped(f"the answer begins with {piece!r}, which may be several tokens")
    ids = set[int]().union(*[await _ids_of(server, text) for text in (piece, word, f" {word}")])
    bias = {str(token): -100 for token in ids}
    answer = await server.chat(logit_bias=bias, logprobs=True, max_tokens=4)
    first = answer["choices"][0]["logprobs"]["content"][0]["token"]
    expect(first != piece, f"the answer begins with {piece!r} although it has -100")
    return ""


async def _seed(server: Server) -> str:
    first = content_of(await server.chat(**_DRAWN))
    second = content_of(await server.chat(**_DRAWN))
    expect(first == second, f"first {short(first)!r}, then {short(second)!r}")
    return ""


async def _seed_in_company(server: Server) -> str:
    alone = content_of(await server.chat(**_DRAWN))
    others = [
        server.chat(**{**_DRAWN, "seed": i}, messages=[{"role": "user", "content": f"{i}. " * i}])
        for i in range(1, 7)
    ]
    answers = await asyncio.gather(*others[:3], server.chat(**_DRAWN), *others[3:])
    beside = content_of(answers[3])
    expect(alone == beside, f"alone {short(alone)!r}, beside six others {short(beside)!r}")
    return ""


def _of(field: str) -> str:
    return f"OpenAI API reference, chat completions, {field}"


CHECKS = (
    Check("max_tokens", "max_tokens bounds the answer.", _of("max_tokens"), _max_tokens),
    Check(
        "max_completion_tokens",
        "max_completion_tokens bounds the answer, and as max_tokens does.",
        _of("max_completion_tokens"),
        _max_completion_tokens,
    ),
    Check("length", "An answer that was cut ends with length.", _of("finish_reason"), _finish_length),
    Check("n", "n: 2 gives two choices, with the indices 0 and 1.", _of("n"), _n),
    Check("n streamed", "n: 2 in a stream: both choices end.", _of("n"), _n_streamed),
    Check("stop text", "A stop string ends the answer, and is not in it.", _of("stop"), _stop_text),
    Check("stop list", "So does one of a list.", _of("stop"), _stop_list),
    Check(
        "logprobs",
        "logprobs.content has the answer's tokens, each with its logprob and bytes.",
        _of("logprobs"),
        _logprobs,
    ),
    Check(
        "top_logprobs",
        "top_logprobs: 3 gives three for each token, the likeliest first, which greedy answers take.",
        _of("top_logprobs"),
        _top_logprobs,
    ),
    Check("no logprobs unasked", "Without logprobs there are none.", _of("logprobs"), _no_logprobs),
    Check("logit_bias forces", "+100 makes a token the only one.", _of("logit_bias"), _forced),
    Check("logit_bias forbids", "-100 keeps a token from being said.", _of("logit_bias"), _forbidden),
    Check("seed", "The same seed gives the same answer.", _of("seed"), _seed),
    Check(
        "seed in company",
        "It does so while other requests are answered, too.",
        "answers that depend on the batch they were computed in",
        _seed_in_company,
    ),
)

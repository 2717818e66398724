"""Group `completions`: the older route, which evaluation harnesses and editors speak."""

from __future__ import annotations

from typing import Any

from llm_serving.cli.conformance.check import Check, Skipped, expect, short
from llm_serving.cli.conformance.reading import FINISH_REASONS, check_usage
from llm_serving.cli.conformance.server import Server
from llm_serving.cli.conformance.sse import DONE

_PATH = "/completions"
_PROMPT = "One, two, three,"


def _body(server: Server, **fields: Any) -> dict[str, Any]:
    if not server.model:
        raise Skipped("no model here answers")
    base = {"model": server.model, "prompt": _PROMPT, "temperature": 0, "seed": 7, "max_tokens": 8}
    return {**base, **fields}


async def _complete(server: Server, **fields: Any) -> dict[str, Any]:
    answer: dict[str, Any] = await server.post(_PATH, _body(server, **fields), may_refuse=True)
    return answer


async def _plain(server: Server) -> dict[str, Any]:
    return await server.once("completion", lambda: _complete(server))


async def _shape(server: Server) -> str:
    answer = await _plain(server)
    expect(answer.get("object") == "text_completion", f"object is {answer.get('object')!r}")
    (choice,) = answer["choices"]
    expect(isinstance(choice["text"], str), f"text is {short(choice['text'])}")
    expect(choice.get("finish_reason") in FINISH_REASONS, f"finish_reason is {choice.get('finish_reason')!r}")
    check_usage(answer.get("usage"))
    return ""


async def _several(server: Server) -> str:
    await _plain(server)
    answer = await _complete(server, prompt=[_PROMPT, "The sky is"])
    indices = [choice["index"] for choice in answer["choices"]]
    expect(sorted(indices) == [0, 1], f"the indices of choices are {indices}")
    return ""


async def _echo(server: Server) -> str:
    await _plain(server)
    text = (await _complete(server, echo=True))["choices"][0]["text"]
    expect(text.lstrip().startswith(_PROMPT), f"the text is {short(text)!r}")
    return ""


async def _logprobs(server: Server) -> str:
    await _plain(server)
    choice = (await _complete(server, logprobs=2))["choices"][0]
    logprobs = choice["logprobs"]
    expect(isinstance(logprobs, dict), f"logprobs is {short(logprobs)}")
    names = ("tokens", "token_logprobs", "top_logprobs", "text_offset")
    missing = [name for name in names if name not in logprobs]
    expect(not missing, f"logprobs without {', '.join(missing)}: {short(logprobs)}")
    tokens, values, tops, _ = (logprobs[name] for name in names)
    expect(
        tokens and len(tokens) == len(values) == len(tops), f"lists of different lengths: {short(logprobs)}"
    )
    expect(all(value is None or value <= 1e-6 for value in values), f"token_logprobs are {short(values)}")
    return ""


async def _streamed(server: Server) -> str:
    whole = (await _plain(server))["choices"][0]["text"]
    stream = await server.stream(_PATH, _body(server))
    text = "".join(choice.get("text") or "" for choice in stream.choices)
    if text != whole:
        again = (await _complete(server))["choices"][0]["text"]
        expect(text == again, f"streamed {short(text)!r}, not streamed {short(whole)!r}")
    expect(stream.events[-1] == DONE, f"the last event is {short(stream.events[-1])}")
    return ""


async def _no_prompt(server: Server) -> str:
    await _plain(server)
    answer = await server.ask("POST", _PATH, _body(server, prompt={"a": 5}), until_head=True)
    expect(answer.status == 400, str(answer) if answer.status != 200 else "status 200")
    return ""


def _of(field: str) -> str:
    return f"OpenAI API reference, completions, {field}"


CHECKS = (
    Check("shape", "A text_completion with text, finish_reason, usage.", _of("the object"), _shape),
    Check("several prompts", "A list of prompts gives a choice each.", _of("prompt"), _several),
    Check("echo", "echo puts the prompt before the answer.", _of("echo"), _echo),
    Check("logprobs", "logprobs has lists of one length.", _of("logprobs"), _logprobs),
    Check("streamed", "The pieces add up to the unstreamed text, [DONE] last.", _of("stream"), _streamed),
    Check("wrong prompt", "A prompt of a wrong type is a 400.", _of("prompt"), _no_prompt),
)

"""llama.cpp's own routes: body → options; events → its answer, whole or as it is made."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import Any

import orjson

from llm_serving.api.convert.answer import Head
from llm_serving.api.convert.sampling import to_options
from llm_serving.api.errors import error_body
from llm_serving.api.schemas.llama_cpp import LlamaCppFields
from llm_serving.api.schemas.sampling import DecodingFields, SamplingFields
from llm_serving.engine.request import FinishReason, TokenEvent
from llm_serving.errors import UnsupportedParameter
from llm_serving.service.generation import Batch, Generation, GenerationOptions

_BLANKS = re.compile(r"[ \t]*")


def to_generation_options(body: LlamaCppFields, fairness_key: str) -> GenerationOptions:
    """Raises: InvalidRequest as `to_options`."""
    fields = {name: getattr(body, name) for name in DecodingFields.model_fields}
    asked = SamplingFields.model_construct(**fields, n_predict=body.n_predict, json_schema=body.json_schema)
    return to_options(asked, asked.limit(), None, fairness_key)


@dataclass(slots=True)
class _Progress:
    """Seconds: when it was asked for, when the first token came, and the last one. And what ended it."""

    begin: float
    first: float = 0.0
    last: float = 0.0
    stop: str = "limit"
    word: str = ""

    def take(self, event: TokenEvent) -> None:
        self.last = time.perf_counter()
        self.first = self.first or self.last
        if event.finish_reason is None or event.finish_reason is FinishReason.LENGTH:
            return
        self.stop, self.word = ("word", event.stop_string) if event.stop_string else ("eos", "")


async def to_answer(generation: Generation, body: LlamaCppFields, begin: float) -> dict[str, Any]:
    """Wait until enough is there, and tell it in llama.cpp's words; `begin` is when it was asked for.

    Enough is what the model ends by itself; a line that is indented by less than `n_indent`, which is left
    out; or whole lines, once `t_max_predict_ms` are over.
    """
    progress, text = _Progress(begin), ""
    lines = _Lines(body.n_indent or 0)
    async for batch in generation:
        for _, event in batch:
            progress.take(event)
            text += event.text
        if (end := lines.end(text)) >= 0:
            text, progress.stop, progress.word = text[:end], "limit", ""
            break
        most = body.t_max_predict_ms or 0
        if most > 0 and "\n" in text and (progress.last - progress.first) * 1000 > most:
            break
    return _chosen(_fields(generation, text, progress), body.response_fields)


def check_stream(body: LlamaCppFields) -> None:
    """Raises: UnsupportedParameter for what is only known of a whole answer."""
    for name in ("n_indent", "response_fields"):
        if body.stream and getattr(body, name):
            raise UnsupportedParameter(name, "Leave it out, or 'stream'.")
    if body.stream and (body.t_max_predict_ms or 0) > 0:
        raise UnsupportedParameter("t_max_predict_ms", "Leave it out, or 'stream'.")


class PieceEvents:
    """An event for each piece of an answer, and a last one with what it cost; no mark behind it."""

    def __init__(self, head: Head, generation: Generation, *, begin: float) -> None:
        self._progress = _Progress(begin)

    def opening(self) -> bytes:
        return b""

    def batch(self, batch: Batch) -> bytes:
        frames = []
        for _, event in batch:
            self._progress.take(event)
            if event.text:
                counts = {
                    "tokens_predicted": event.num_completion_tokens,
                    "tokens_evaluated": event.num_prompt_tokens,
                }
                frames.append(_data({"index": 0, "content": event.text, "stop": False, **counts}))
        return b"".join(frames)

    def closing(self, generation: Generation) -> bytes:
        return _data(_fields(generation, "", self._progress))

    def failure(self, error: Exception, request_id: str) -> bytes:
        return b"event: error\ndata: " + error_body(error, request_id) + b"\n\n"


def _data(fields: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(fields) + b"\n\n"


class _Lines:
    """Looks for the first line after the first one that is indented by less than `least`, if that is more
    than 0, in a text that grows, of which only what is new is read, and the blanks before it."""

    def __init__(self, least: int) -> None:
        self._least = least
        self._at = 0  # what comes before is decided
        self._is_new = False  # a line begins there

    def end(self, text: str) -> int:
        """Where that line begins; -1 if there is none yet. Lines of blanks do not count."""
        while self._least:
            if not self._is_new:
                found = text.find("\n", self._at)
                self._at = found + 1 if found >= 0 else len(text)
                self._is_new = found >= 0
                if found < 0:
                    return -1
            front = _BLANKS.match(text, self._at)
            first = front.end() if front is not None else self._at
            if first == len(text):
                return -1
            if text[first] != "\n" and first - self._at < self._least:
                return self._at
            self._at, self._is_new = first, False
        return -1


def _fields(generation: Generation, text: str, progress: _Progress) -> dict[str, Any]:
    usage = generation.usage()
    num_read = usage.num_prompt - usage.num_cached
    prompt_ms = (progress.first - progress.begin) * 1000
    predicted_ms = (progress.last - progress.first) * 1000
    return {
        "index": 0,
        "content": text,
        "stop": True,
        "stop_type": progress.stop,
        "stopping_word": progress.word,
        "model": generation.name,
        "tokens_predicted": usage.num_completion,
        "tokens_evaluated": usage.num_prompt,
        "tokens_cached": usage.num_cached,
        "truncated": False,
        "timings": {
            "cache_n": usage.num_cached,
            **_rates("prompt", num_read, prompt_ms),
            **_rates("predicted", usage.num_completion, predicted_ms),
        },
    }


def _rates(name: str, count: int, ms: float) -> dict[str, Any]:
    return {
        f"{name}_n": count,
        f"{name}_ms": ms,
        f"{name}_per_token_ms": ms / count if count else 0.0,
        f"{name}_per_second": count / ms * 1000 if ms > 0 else 0.0,
    }


def _chosen(fields: dict[str, Any], names: list[str] | None) -> dict[str, Any]:
    """Those of these names; `timings/prompt_n` is one within `timings`, told by all of that name."""
    if names is None:
        return fields
    found = {}
    for name in names:
        outer, _, inner = name.partition("/")
        if inner and isinstance(fields.get(outer), dict) and inner in fields[outer]:
            found[name] = fields[outer][inner]
        elif name in fields:
            found[name] = fields[name]
    return found

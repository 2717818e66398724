"""`/infill`: body → what is asked for; events → response."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import Any

from llm_serving.api.convert.sampling import to_options
from llm_serving.api.schemas.infill import InfillRequest
from llm_serving.api.schemas.sampling import DecodingFields, SamplingFields
from llm_serving.engine.request import FinishReason
from llm_serving.service.generation import Generation, GenerationOptions
from llm_serving.service.infill import Infill

_BLANKS = re.compile(r"[ \t]*")


def to_infill(body: InfillRequest) -> Infill:
    files = [(each.filename or "", each.text) for each in body.input_extra or ()]
    return Infill(body.input_prefix or "", body.input_suffix or "", body.prompt or "", files)


def to_infill_options(body: InfillRequest, fairness_key: str) -> GenerationOptions:
    """Raises: InvalidRequest as `to_options`."""
    fields = {name: getattr(body, name) for name in DecodingFields.model_fields}
    asked = SamplingFields.model_construct(**fields, n_predict=body.n_predict)
    return to_options(asked, asked.limit(), None, fairness_key)


@dataclass(slots=True)
class _Times:
    """Seconds: when it began, when the first token came, and the last one."""

    begin: float
    first: float = 0.0
    last: float = 0.0


async def to_infill_response(generation: Generation, body: InfillRequest, begin: float) -> dict[str, Any]:
    """Wait until enough is there, and tell it in llama.cpp's words; `begin` is when it was asked for.

    Enough is what the model ends by itself; a line that is indented by less than `n_indent`, which is left
    out; or whole lines, once `t_max_predict_ms` are over.
    """
    times, text, stop = _Times(begin), "", "limit"
    lines = _Lines(body.n_indent or 0)
    async for batch in generation:
        for _, event in batch:
            times.last = time.perf_counter()
            times.first = times.first or times.last
            text += event.text
            if event.finish_reason is not None:
                stop = "limit" if event.finish_reason is FinishReason.LENGTH else "eos"
        if (end := lines.end(text)) >= 0:
            text, stop = text[:end], "limit"
            break
        most = body.t_max_predict_ms or 0
        if most > 0 and "\n" in text and (times.last - times.first) * 1000 > most:
            break
    return _chosen(_fields(generation, text, stop, times), body.response_fields)


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


def _fields(generation: Generation, text: str, stop: str, times: _Times) -> dict[str, Any]:
    usage = generation.usage()
    num_read = usage.num_prompt - usage.num_cached
    prompt_ms, predicted_ms = (times.first - times.begin) * 1000, (times.last - times.first) * 1000
    return {
        "index": 0,
        "content": text,
        "stop": True,
        "stop_type": stop,
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

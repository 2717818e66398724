"""Ollama's API: events of a generation → its answer, whole or as lines of JSON; and its errors."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

import numpy as np
import orjson
from starlette.responses import Response

from llm_serving.api.convert.answer import Head, fold
from llm_serving.api.convert.embedding import in_pieces
from llm_serving.api.convert.logprobs import ShownToken, chat_logprobs
from llm_serving.api.convert.reading import AnswerReader
from llm_serving.api.convert.tool_calls import ToolCall
from llm_serving.api.convert.tools import ToolUse
from llm_serving.api.errors import error_message, error_response
from llm_serving.service.embedding import Embeddings
from llm_serving.service.generation import Batch, Generation

# Of an answer or a piece of one: thoughts, text and calls.
Shape = Callable[[str, str, Sequence[ToolCall]], dict[str, Any]]


def chat_shape(thoughts: str, text: str, calls: Sequence[ToolCall]) -> dict[str, Any]:
    """`/api/chat`: a message."""
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if thoughts:
        message["thinking"] = thoughts
    if calls:
        message["tool_calls"] = [_call(call) for call in calls]
    return {"message": message}


def generate_shape(thoughts: str, text: str, calls: Sequence[ToolCall]) -> dict[str, Any]:
    """`/api/generate`: a text; there are no functions to call."""
    return {"response": text, "thinking": thoughts} if thoughts else {"response": text}


class AnswerLines:
    """A line for each piece of an answer, and a last one with what it cost."""

    def __init__(
        self, head: Head, generation: Generation, *, shape: Shape, use: ToolUse, started_s: float
    ) -> None:
        self._head = head
        self._shape = shape
        self._started_s = started_s
        self._reader = AnswerReader(generation, use)

    def opening(self) -> bytes:
        return b""

    def batch(self, batch: Batch) -> bytes:
        lines = []
        for _, event in batch:
            piece = self._reader.feed(event)
            if any(piece):
                shown = self._shape(piece.thoughts, piece.text, piece.calls)
                answer = {**shown, **_logprobs(piece.tokens)}
                lines.append(_line({**start_of(self._head.model), **answer, "done": False}))
        return b"".join(lines)

    def closing(self, generation: Generation) -> bytes:
        end = end_of(generation, self._started_s)
        return _line({**start_of(self._head.model), **self._shape("", "", ()), **end})

    def failure(self, error: Exception, request_id: str) -> bytes:
        return _line({"error": error_message(error, request_id)})


async def to_response(
    head: Head, generation: Generation, *, shape: Shape, use: ToolUse, started_s: float
) -> dict[str, Any]:
    """Wait for the end, and build the whole answer."""
    (answer,) = await fold(generation, [AnswerReader(generation, use)])
    told = {**shape(answer.thoughts, answer.text, answer.calls), **_logprobs(answer.tokens)}
    return {**start_of(head.model), **told, **end_of(generation, started_s)}


async def embed_body(embeddings: Embeddings, vectors: np.ndarray, started_s: float) -> bytes:
    """The JSON of `/api/embed`."""
    rows = await in_pieces(vectors, _rows)
    tail = {
        "total_duration": _nanoseconds(time.monotonic() - started_s),
        "load_duration": 0,
        "prompt_eval_count": embeddings.num_tokens,
    }
    head = orjson.dumps({"model": embeddings.model.name})
    return head[:-1] + b',"embeddings":[' + rows + b"]," + orjson.dumps(tail)[1:]


def start_of(model: str) -> dict[str, Any]:
    """Who says it, and when."""
    return {"model": model, "created_at": time_text(time.time())}


def end_of(generation: Generation, started_s: float) -> dict[str, Any]:
    """Why an answer ended and what it cost, in nanoseconds; the request came in at `started_s`, monotonic."""
    last = generation.finals[0]
    usage, timings = generation.usage(), last.timings
    first_s = timings.first_token_s or timings.finished_s  # there may be none
    return {
        "done": True,
        "done_reason": last.finish_reason.value if last.finish_reason else "stop",
        "total_duration": _nanoseconds(time.monotonic() - started_s),
        "load_duration": 0,  # a request for text loads nothing
        "prompt_eval_count": usage.num_prompt,
        "prompt_eval_duration": _nanoseconds(first_s - timings.scheduled_s),
        "eval_count": usage.num_completion,
        "eval_duration": _nanoseconds(timings.finished_s - first_s),
    }


def time_text(unix_s: float) -> str:
    """RFC 3339, in UTC."""
    return datetime.fromtimestamp(unix_s, timezone.utc).isoformat().replace("+00:00", "Z")


def ollama_error(error: BaseException, request_id: str) -> Response:
    """As `error_response`, in Ollama's shape."""
    return error_response(error, request_id, orjson.dumps({"error": error_message(error, request_id)}))


def _call(call: ToolCall) -> dict[str, Any]:
    arguments = orjson.loads(call.arguments)
    return {"id": call.id, "function": {"index": call.place, "name": call.name, "arguments": arguments}}


def _logprobs(tokens: Sequence[ShownToken]) -> dict[str, Any]:
    return {"logprobs": chat_logprobs(tokens)["content"]} if tokens else {}


def _nanoseconds(seconds: float) -> int:
    """At least one, since clients divide by it."""
    return max(1, round(seconds * 1e9))


def _rows(rows: np.ndarray, start: int) -> bytes:
    return orjson.dumps(rows, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]


def _line(value: Mapping[str, Any]) -> bytes:
    return orjson.dumps(value) + b"\n"

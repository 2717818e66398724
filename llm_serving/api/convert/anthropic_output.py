"""`/messages`: events of a generation → Anthropic's message, whole or as a stream; and its errors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import orjson
from starlette.responses import Response

from llm_serving.api.convert.answer import Head
from llm_serving.api.convert.reading import AnswerReader
from llm_serving.api.convert.tool_calls import ToolCall
from llm_serving.api.convert.tools import ToolUse
from llm_serving.api.errors import error_message, error_response, kind_of
from llm_serving.api.sse import typed_event
from llm_serving.engine.request import FinishReason
from llm_serving.service.generation import Batch, Generation, Usage

Event = dict[str, Any]

_ERROR_TYPES = {
    401: "authentication_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    503: "overloaded_error",
}


class MessageStream:
    """One answer on its way: its blocks, and the server-sent events that tell how they come to be.

    The message starts with its first token, when it is known how much of the prompt was cached.
    """

    def __init__(
        self, head: Head, generation: Generation, *, use: ToolUse, shows_thoughts: bool = True
    ) -> None:
        self._head = head
        self._generation = generation
        self._reader = AnswerReader(generation, use, include_reasoning=shows_thoughts)
        self._has_started = False
        self._blocks: list[dict[str, Any]] = []
        self._kind = ""  # of the block that is being written, `text` or `thinking`
        self._pieces: list[str] = []

    def opening(self) -> bytes:
        return b""

    def batch(self, batch: Batch) -> bytes:
        return _frames(self.events(batch))

    def closing(self, generation: Generation) -> bytes:
        reason, stop_sequence = self._stop()
        delta = {"stop_reason": reason, "stop_sequence": stop_sequence}
        ended = {"type": "message_delta", "delta": delta, "usage": usage_fields(generation.usage())}
        return _frames([ended, {"type": "message_stop"}])

    def failure(self, error: Exception, request_id: str) -> bytes:
        return typed_event(_error(error, request_id))

    def events(self, batch: Batch) -> Iterator[Event]:
        """What a batch adds to the message."""
        if not self._has_started:
            self._has_started = True
            usage = usage_fields(self._generation.usage()) | {"output_tokens": 0}
            yield {"type": "message_start", "message": self._message([], None, None, usage)}
        for _, event in batch:
            piece = self._reader.feed(event)
            if piece.thoughts:
                yield from self._add("thinking", piece.thoughts)
            if piece.text:
                yield from self._add("text", piece.text)
            for call in piece.calls:
                yield from self._end_block()
                yield from self._add_call(call)
            if event.finish_reason is not None:
                yield from self._end_block()

    def finish(self, usage: Usage) -> dict[str, Any]:
        """The message, behind the last event."""
        reason, stop_sequence = self._stop()
        return self._message(self._blocks, reason, stop_sequence, usage_fields(usage))

    def _add(self, kind: str, text: str) -> Iterator[Event]:
        """More of a block of this kind, a new one if another is being written."""
        if self._kind != kind:
            yield from self._end_block()
            self._kind = kind
            yield _start(len(self._blocks), self._block(""))
        self._pieces.append(text)
        yield _delta(len(self._blocks), {"type": f"{kind}_delta", kind: text})

    def _end_block(self) -> Iterator[Event]:
        if not self._kind:
            return
        index = len(self._blocks)
        if self._kind == "thinking":
            yield _delta(index, {"type": "signature_delta", "signature": ""})
        yield {"type": "content_block_stop", "index": index}
        self._blocks.append(self._block("".join(self._pieces)))
        self._kind, self._pieces = "", []

    def _block(self, text: str) -> dict[str, Any]:
        signature = {"signature": ""} if self._kind == "thinking" else {}  # nobody has to trust thoughts here
        return {"type": self._kind, self._kind: text, **signature}

    def _add_call(self, call: ToolCall) -> Iterator[Event]:
        """A call comes whole: its arguments are complete when it is known to be one."""
        index = len(self._blocks)
        block = {"type": "tool_use", "id": call.id, "name": call.name, "input": {}}
        yield _start(index, block)
        yield _delta(index, {"type": "input_json_delta", "partial_json": call.arguments})
        yield {"type": "content_block_stop", "index": index}
        self._blocks.append({**block, "input": orjson.loads(call.arguments)})

    def _stop(self) -> tuple[str, str | None]:
        """(stop_reason, stop_sequence)."""
        last = self._reader.last
        if last is not None and last.finish_reason is FinishReason.LENGTH:
            return "max_tokens", None
        if last is not None and last.stop_string is not None:
            return "stop_sequence", last.stop_string
        if self._reader.has_called:
            return "tool_use", None
        return "end_turn", None

    def _message(
        self, blocks: list[dict[str, Any]], reason: str | None, stop: str | None, usage: dict[str, int]
    ) -> dict[str, Any]:
        return {
            "id": self._head.id,
            "type": "message",
            "role": "assistant",
            "model": self._head.model,
            "content": blocks,
            "stop_reason": reason,
            "stop_sequence": stop,
            "usage": usage,
        }


async def to_response(
    head: Head, generation: Generation, *, use: ToolUse, shows_thoughts: bool = True
) -> dict[str, Any]:
    """Wait for the end, and build a `message`."""
    stream = MessageStream(head, generation, use=use, shows_thoughts=shows_thoughts)
    async for batch in generation:
        for _ in stream.events(batch):
            pass
    return stream.finish(generation.usage())


def usage_fields(usage: Usage) -> dict[str, int]:
    """`input_tokens` are those that were read; what was found in the cache is told apart."""
    return {
        "input_tokens": usage.num_prompt - usage.num_cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.num_cached,
        "output_tokens": usage.num_completion,
    }


def anthropic_error(error: BaseException, request_id: str) -> Response:
    """As `error_response`, in Anthropic's shape."""
    return error_response(error, request_id, orjson.dumps(_error(error, request_id)))


def _error(error: BaseException, request_id: str) -> Event:
    kind = _ERROR_TYPES.get(kind_of(error).status, "invalid_request_error")
    told = {"type": kind, "message": error_message(error, request_id)}
    return {"type": "error", "error": told, "request_id": request_id}


def _start(index: int, block: dict[str, Any]) -> Event:
    return {"type": "content_block_start", "index": index, "content_block": block}


def _delta(index: int, delta: dict[str, Any]) -> Event:
    return {"type": "content_block_delta", "index": index, "delta": delta}


def _frames(events: Iterable[Event]) -> bytes:
    return b"".join(map(typed_event, events))

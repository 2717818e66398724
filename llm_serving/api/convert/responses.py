"""`/responses`: events of a generation → the response object, whole or as a stream."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from llm_serving.api.convert.answer import Head
from llm_serving.api.convert.reading import AnswerReader
from llm_serving.api.convert.response_output import Event, Output
from llm_serving.api.convert.response_tools import SentTools
from llm_serving.api.convert.tools import ToolUse
from llm_serving.api.errors import error_body
from llm_serving.api.schemas.responses import ResponseRequest
from llm_serving.api.sse import typed_event
from llm_serving.chat.messages import Message
from llm_serving.engine.request import FinishReason
from llm_serving.service.generation import Batch, Generation, Usage

OnDone = Callable[[dict[str, Any], Message], None]


@dataclass(frozen=True, slots=True)
class Frame:
    """What a response says of its request, beside who answers."""

    body: ResponseRequest
    tools: SentTools
    default_temperature: float

    def fields(self, head: Head) -> dict[str, Any]:
        """All fields that do not change while the response is made."""
        body = self.body
        form = body.text.format if body.text is not None else None
        return {
            "id": head.id,
            "object": "response",
            "created_at": head.created,
            "background": bool(body.background),
            "error": None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "max_tool_calls": None,
            "metadata": body.metadata or {},
            "model": head.model,
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": body.previous_response_id,
            "prompt_cache_key": body.prompt_cache_key,
            "reasoning": {"effort": body.effort(), "summary": None},
            "safety_identifier": body.safety_identifier,
            "service_tier": "default",
            "store": body.store is not False,
            "temperature": self.default_temperature if body.temperature is None else body.temperature,
            "text": {"format": form or {"type": "text"}, "verbosity": "medium"},
            "tool_choice": body.tool_choice or "auto",
            "tools": list(self.tools.told),
            "top_logprobs": body.top_logprobs or 0,
            "top_p": 1.0 if body.top_p is None else body.top_p,
            "truncation": body.truncation or "disabled",
            "user": body.user,
        }


class ResponseStream:
    """One answer on its way: server-sent events, and at the end the response.

    `on_done` hears of the response, and of the answer as a message, if it comes to its end.
    """

    def __init__(
        self, head: Head, generation: Generation, *, frame: Frame, use: ToolUse, on_done: OnDone
    ) -> None:
        self._fields = frame.fields(head)
        self._output = Output(frame.tools)
        self._reader = AnswerReader(generation, use)
        self._on_done = on_done
        self._thoughts: list[str] = []
        self._text: list[str] = []
        self._calls: list[dict[str, Any]] = []
        self._num_events = 0

    def opening(self) -> bytes:
        begun = self.response("in_progress")
        return b"".join(self.frames(of_response(kind, begun) for kind in ("created", "in_progress")))

    def batch(self, batch: Batch) -> bytes:
        return b"".join(self.frames(self.events(batch)))

    def closing(self, generation: Generation) -> bytes:
        response = self.finish(generation.usage())
        return b"".join(self.frames([of_response(response["status"], response)]))

    def failure(self, error: Exception, request_id: str) -> bytes:
        failed = self.failed(error, request_id)
        return b"".join(self.frames([error_event(error, request_id), of_response("failed", failed)]))

    def events(self, batch: Batch) -> Iterator[Event]:
        """What a batch adds to the output, and its end."""
        for _, event in batch:
            thoughts, text, calls, tokens = self._reader.feed(event)
            self._thoughts.append(thoughts)
            self._text.append(text)
            yield from self._output.thoughts(thoughts)
            yield from self._output.text(text, tokens)
            for call in calls:
                self._calls.append(call.fields())
                yield from self._output.call(call)
            if event.finish_reason is not None:
                yield from self._output.end(self._status())

    def finish(self, usage: Usage) -> dict[str, Any]:
        """The response, behind the last event."""
        response = self.response(self._status(), usage)
        answer = Message(role="assistant", content="".join(self._text))
        if thoughts := "".join(self._thoughts):
            answer["reasoning_content"] = thoughts
        if self._calls:
            answer["tool_calls"] = [
                {**call, "function": {**call["function"], "arguments": _arguments(call)}}
                for call in self._calls
            ]
        self._on_done(response, answer)
        return response

    def failed(self, error: Exception, request_id: str) -> dict[str, Any]:
        """The response that an error has ended."""
        said = error_event(error, request_id)
        return {**self.response("failed"), "error": {"code": said["code"], "message": said["message"]}}

    def cut_off(self) -> Iterator[Event]:
        """What is written ends here, unfinished."""
        return self._output.end_written("incomplete")

    def response(self, status: str, usage: Usage | None = None) -> dict[str, Any]:
        """The response as it is now."""
        return {
            **self._fields,
            "status": status,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "output": list(self._output.items),
            "usage": usage and usage_fields(usage, self._reader.num_reasoning_tokens),
        }

    def frames(self, events: Iterable[Event]) -> list[bytes]:
        """Each event as it is sent, with its number."""
        frames = []
        for event in events:
            frames.append(typed_event({**event, "sequence_number": self._num_events}))
            self._num_events += 1
        return frames

    def _status(self) -> str:
        last = self._reader.last
        is_cut = last is not None and last.finish_reason is FinishReason.LENGTH
        return "incomplete" if is_cut else "completed"


def item_ids(response: Mapping[str, Any]) -> list[str]:
    """Of the output."""
    return [item["id"] for item in response["output"]]


def of_response(kind: str, response: dict[str, Any]) -> Event:
    """An event that tells of the whole response."""
    return {"type": f"response.{kind}", "response": response}


def error_event(error: Exception, request_id: str) -> Event:
    """What goes before the end of a stream that an error ends."""
    found = orjson.loads(error_body(error, request_id))["error"]
    return {"type": "error", "code": found["code"], "message": found["message"], "param": found["param"]}


async def to_response(
    head: Head, generation: Generation, *, frame: Frame, use: ToolUse, on_done: OnDone
) -> dict[str, Any]:
    """Wait for the end, and build a `response`."""
    stream = ResponseStream(head, generation, frame=frame, use=use, on_done=on_done)
    async for batch in generation:
        for _ in stream.events(batch):
            pass
    return stream.finish(generation.usage())


def usage_fields(usage: Usage, num_reasoning_tokens: int) -> dict[str, Any]:
    return {
        "input_tokens": usage.num_prompt,
        "input_tokens_details": {"cached_tokens": usage.num_cached},
        "output_tokens": usage.num_completion,
        "output_tokens_details": {"reasoning_tokens": num_reasoning_tokens},
        "total_tokens": usage.num_prompt + usage.num_completion,
    }


def _arguments(call: dict[str, Any]) -> Any:
    return orjson.loads(call["function"]["arguments"])

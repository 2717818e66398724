"""`/responses`: tokens → output items, and the events that tell how they come to be.

The order is that of OpenAI's API reference: an item is added, its content grows, and each is said to be done.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from llm_serving.api.convert.answer import new_id
from llm_serving.api.convert.logprobs import ShownToken, chat_logprobs
from llm_serving.api.convert.tool_calls import ToolCall

Event = dict[str, Any]


class Output:
    """The output items of one answer, in order; text and calls come in as they are made."""

    def __init__(self) -> None:
        self.items: list[dict[str, Any]] = []
        self._pieces: list[str] | None = None  # of the message that is being written
        self._logprobs: list[dict[str, Any]] = []

    def text(self, piece: str, tokens: Sequence[ShownToken]) -> Iterator[Event]:
        """More of the message; `tokens` if log-probabilities were asked for."""
        if self._pieces is None:
            if not piece:
                return
            yield from self._begin_message()
        logprobs = chat_logprobs(tokens)["content"] if tokens else []
        if not piece and not logprobs:
            return
        assert self._pieces is not None
        self._pieces.append(piece)
        self._logprobs += logprobs
        yield {**self._place("response.output_text.delta"), "delta": piece, "logprobs": logprobs}

    def call(self, call: ToolCall) -> Iterator[Event]:
        """A call of a function, which comes whole."""
        yield from self.end_message("completed")
        item = {
            "type": "function_call",
            "id": new_id("fc", "_"),
            "call_id": call.id,
            "name": call.name,
            "arguments": "",
            "status": "in_progress",
        }
        yield {"type": "response.output_item.added", "output_index": len(self.items), "item": item}
        at = {"item_id": item["id"], "output_index": len(self.items)}
        yield {"type": "response.function_call_arguments.delta", **at, "delta": call.arguments}
        done = {"name": call.name, "arguments": call.arguments}
        yield {"type": "response.function_call_arguments.done", **at, **done}
        yield from self._end_item({**item, "arguments": call.arguments, "status": "completed"})

    def end(self, status: str) -> Iterator[Event]:
        """Behind the last token. An answer without a word is an empty message."""
        if self._pieces is None and not self.items:
            yield from self._begin_message()
        yield from self.end_message(status)

    def end_message(self, status: str) -> Iterator[Event]:
        """Close the message, if one is being written."""
        if self._pieces is None:
            return
        text = "".join(self._pieces)
        part = _part(text, self._logprobs)
        place = self._place("response.output_text.done")
        yield {**place, "text": text, "logprobs": self._logprobs}
        yield {**place, "type": "response.content_part.done", "part": part}
        self._pieces, self._logprobs = None, []
        yield from self._end_item(self._message(status, [part]))

    def _begin_message(self) -> Iterator[Event]:
        self._pieces = []
        self._id = new_id("msg", "_")
        item = self._message("in_progress", [])
        yield {"type": "response.output_item.added", "output_index": len(self.items), "item": item}
        yield {**self._place("response.content_part.added"), "part": _part("", [])}

    def _end_item(self, item: dict[str, Any]) -> Iterator[Event]:
        yield {"type": "response.output_item.done", "output_index": len(self.items), "item": item}
        self.items.append(item)

    def _message(self, status: str, content: list[Any]) -> dict[str, Any]:
        return {
            "type": "message",
            "id": self._id,
            "status": status,
            "role": "assistant",
            "content": content,
        }

    def _place(self, kind: str) -> Event:
        return {"type": kind, "item_id": self._id, "output_index": len(self.items), "content_index": 0}


def _part(text: str, logprobs: list[dict[str, Any]]) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}

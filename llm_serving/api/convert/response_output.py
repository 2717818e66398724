"""`/responses`: tokens → output items, and the events that tell how they come to be.

The order is that of OpenAI's API reference: an item is added, its content grows, and each is said to be done.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from llm_serving.api.convert.answer import new_id
from llm_serving.api.convert.logprobs import ShownToken, chat_logprobs
from llm_serving.api.convert.response_tools import TEXT, SentTools, text_of
from llm_serving.api.convert.tool_calls import ToolCall

Event = dict[str, Any]


class Output:
    """The output items of one answer, in order; thoughts, text and calls come in as they are made."""

    def __init__(self, tools: SentTools) -> None:
        self._tools = tools
        self.items: list[dict[str, Any]] = []
        self._kind = ""  # of the item that is being written, `reasoning` or `message`
        self._id = ""
        self._pieces: list[str] = []
        self._logprobs: list[dict[str, Any]] = []

    def thoughts(self, piece: str) -> Iterator[Event]:
        """More of the reasoning."""
        if not piece:
            return
        yield from self._begin("reasoning")
        self._pieces.append(piece)
        yield {**self._place("response.reasoning_text.delta"), "delta": piece}

    def text(self, piece: str, tokens: Sequence[ShownToken]) -> Iterator[Event]:
        """More of the message; `tokens` if log-probabilities were asked for."""
        if self._kind != "message" and not piece:
            return
        yield from self._begin("message")
        logprobs = chat_logprobs(tokens)["content"] if tokens else []
        if not piece and not logprobs:
            return
        self._pieces.append(piece)
        self._logprobs += logprobs
        yield {**self._place("response.output_text.delta"), "delta": piece, "logprobs": logprobs}

    def call(self, call: ToolCall) -> Iterator[Event]:
        """A call of a tool, which comes whole."""
        yield from self.end_written("completed")
        origin = self._tools.origin(call.name)
        kind, field, said = "function_call", "arguments", call.arguments
        if origin.is_custom:
            kind, field, said = "custom_tool_call", TEXT, text_of(call.arguments)
        item = {
            "type": kind,
            "id": new_id("ctc" if origin.is_custom else "fc", "_"),
            "call_id": call.id,
            "name": origin.name,
            field: "",
            "status": "in_progress",
        }
        if origin.namespace is not None:
            item["namespace"] = origin.namespace
        yield {"type": "response.output_item.added", "output_index": len(self.items), "item": item}
        at = {"item_id": item["id"], "output_index": len(self.items)}
        yield {"type": f"response.{kind}_{field}.delta", **at, "delta": said}
        named = {} if origin.is_custom else {"name": origin.name}
        yield {"type": f"response.{kind}_{field}.done", **at, **named, field: said}
        yield from self._end_item({**item, field: said, "status": "completed"})

    def end(self, status: str) -> Iterator[Event]:
        """Behind the last token. An answer without a word is an empty message."""
        if not self._kind and not self.items:
            yield from self._begin("message")
        yield from self.end_written(status)

    def _begin(self, kind: str) -> Iterator[Event]:
        """Write an item of this kind, a new one if another is being written."""
        if self._kind == kind:
            return
        yield from self.end_written("completed")
        self._kind = kind
        self._id = new_id("msg" if kind == "message" else "rs", "_")
        item = self._item("in_progress", [])
        yield {"type": "response.output_item.added", "output_index": len(self.items), "item": item}
        yield {**self._place("response.content_part.added"), "part": self._part("")}

    def end_written(self, status: str) -> Iterator[Event]:
        """Close the item that is being written, if there is one."""
        if not self._kind:
            return
        text = "".join(self._pieces)
        part = self._part(text)
        if self._kind == "message":
            yield {**self._place("response.output_text.done"), "text": text, "logprobs": self._logprobs}
        else:
            yield {**self._place("response.reasoning_text.done"), "text": text}
        yield {**self._place("response.content_part.done"), "part": part}
        item = self._item(status, [part])
        self._kind, self._pieces, self._logprobs = "", [], []
        yield from self._end_item(item)

    def _end_item(self, item: dict[str, Any]) -> Iterator[Event]:
        yield {"type": "response.output_item.done", "output_index": len(self.items), "item": item}
        self.items.append(item)

    def _item(self, status: str, content: list[Any]) -> dict[str, Any]:
        own: dict[str, Any] = {"role": "assistant"} if self._kind == "message" else {"summary": []}
        return {"type": self._kind, "id": self._id, "status": status, **own, "content": content}

    def _part(self, text: str) -> dict[str, Any]:
        if self._kind == "reasoning":
            return {"type": "reasoning_text", "text": text}
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": self._logprobs}

    def _place(self, kind: str) -> Event:
        return {"type": kind, "item_id": self._id, "output_index": len(self.items), "content_index": 0}

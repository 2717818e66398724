"""A stream of server-sent events as it arrived, and what a client makes of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from llm_serving.cli.conformance.check import Failed, short

DONE = b"[DONE]"
_FIELDS = (b"data", b"event", b"id", b"retry")


@dataclass
class Stream:
    """Events of one answer. Times are seconds since the request was sent; `cut` if the reader left."""

    content_type: str
    headers_s: float = 0.0
    first_s: float = 0.0  # first event
    end_s: float = 0.0
    events: list[bytes] = field(default_factory=list)  # the data of each
    odd_lines: list[bytes] = field(default_factory=list)  # what is no line of an event stream

    def take(self, frame: bytes) -> bool:
        """One event's lines; whether it had data."""
        data = []
        for line in frame.split(b"\n"):
            name, _, value = line.partition(b":")
            if name == b"data":
                data.append(value.removeprefix(b" "))
            elif line and name and name not in _FIELDS:
                self.odd_lines.append(line)
        if data:
            self.events.append(b"\n".join(data))
        return bool(data)

    @cached_property
    def chunks(self) -> list[dict[str, Any]]:
        """Every event but `[DONE]`. Raises: Failed if one is no JSON object, or tells of an error."""
        return [_chunk(event) for event in self.events if event != DONE]

    @cached_property
    def choices(self) -> list[dict[str, Any]]:
        """Every choice of every chunk, in order."""
        return [choice for chunk in self.chunks for choice in chunk["choices"]]

    def deltas(self, index: int = 0) -> Iterator[dict[str, Any]]:
        return (choice["delta"] for choice in self.choices if choice["index"] == index)

    def text(self, index: int = 0) -> str:
        """What a reader sees of a chat's choice."""
        return "".join(delta.get("content") or "" for delta in self.deltas(index))

    def finish_reasons(self, index: int = 0) -> list[str]:
        found = (choice.get("finish_reason") for choice in self.choices if choice["index"] == index)
        return [reason for reason in found if reason is not None]


def _chunk(event: bytes) -> dict[str, Any]:
    try:
        chunk = parse_json(event)
    except ValueError as error:
        raise Failed(f"an event that is no JSON ({error}): {short(event)}") from None
    if not isinstance(chunk, dict):
        raise Failed(f"an event that is no object: {short(event)}")
    if chunk.get("error"):
        raise Failed(f"an error in the middle of the stream: {short(chunk['error'])}")
    return chunk


def parse_json(data: bytes) -> Any:
    """Strictly: UTF-8, and neither NaN nor Infinity. Raises: ValueError."""
    return json.loads(data.decode("utf-8"), parse_constant=_refuse)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")

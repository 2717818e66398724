"""Our server on the fake engine with one thing broken: what `conformance` has to find, and nothing else."""

from __future__ import annotations

import asyncio
import base64
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

DONE = "[DONE]"


@dataclass(frozen=True)
class Defect:
    """Where `path` is part of the request's, one thing goes wrong; None leaves it as it is.

    request: the body in place of the body. answer: (body, status) in place of the answer's. events: the
    stream's in place of its own. Each is also given the body that was sent.
    """

    group: str
    check: str  # the one that must find it
    path: str = "/chat/completions"
    request: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    answer: Callable[[Any, int, dict[str, Any]], tuple[Any, int]] | None = None
    events: Callable[[list[Any], dict[str, Any]], list[Any]] | None = None
    key: str = ""  # sent on in place of the client's


class Breaking:
    """ASGI middleware; `defect` may be exchanged while the server runs."""

    defect: Defect | None = None
    num_running = 0

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        defect = self.defect
        if defect is None or scope["type"] != "http" or defect.path not in scope["path"]:
            await self._app(scope, receive, send)
            return
        body = await _read(receive)
        try:
            sent = json.loads(body)
        except ValueError:
            sent = None
        if isinstance(sent, dict) and defect.request is not None:
            body = json.dumps(defect.request(dict(sent))).encode()
        headers = {**dict(scope["headers"]), b"content-length": str(len(body)).encode()}
        if defect.key:
            headers[b"authorization"] = f"Bearer {defect.key}".encode()
        messages: list[Message] = []
        Breaking.num_running += 1
        try:
            await self._app(
                {**scope, "headers": list(headers.items())}, _once(body, receive), _keep(messages)
            )
            if not messages:
                return
            head, answer = _broken(defect, messages, sent if isinstance(sent, dict) else {})
            if defect.answer is crowded:  # requests at the same time have to be at the same time
                await asyncio.sleep(0.2)
        finally:
            Breaking.num_running -= 1
        await send(head)
        await send({"type": "http.response.body", "body": answer})


def _broken(defect: Defect, messages: list[Message], sent: dict[str, Any]) -> tuple[Message, bytes]:
    head, status = messages[0], messages[0]["status"]
    content = b"".join(message.get("body", b"") for message in messages[1:])
    is_stream = any(b"event-stream" in value for _, value in head["headers"])
    if is_stream and defect.events is not None:
        content = _frames(defect.events(_events(content), sent))
    elif not is_stream and defect.answer is not None and content:
        value, status = defect.answer(json.loads(content), status, sent)
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
    kept = [(name, value) for name, value in head["headers"] if name != b"content-length"]
    return {**head, "status": status, "headers": kept}, content


async def _read(receive: Receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


def _once(body: bytes, receive: Receive) -> Receive:
    given = [{"type": "http.request", "body": body, "more_body": False}]

    async def next_message() -> Message:
        return given.pop() if given else await receive()

    return next_message


def _keep(messages: list[Message]) -> Send:
    async def keep(message: Message) -> None:
        messages.append(message)

    return keep


def _events(content: bytes) -> list[Any]:
    lines = [line[6:] for line in content.decode().split("\n") if line.startswith("data: ")]
    return [line if line == DONE else json.loads(line) for line in lines]


def _frames(events: list[Any]) -> bytes:
    texts = [event if isinstance(event, str) else json.dumps(event) for event in events]
    return "".join(f"data: {text}\n\n" for text in texts).encode()


# What may be wrong: of a request …


def without(*names: str, streamed: bool | None = None) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def change(body: dict[str, Any]) -> dict[str, Any]:
        is_meant = streamed is None or bool(body.get("stream")) == streamed
        return {k: v for k, v in body.items() if k not in names} if is_meant else body

    return change


def cut_prompt(body: dict[str, Any]) -> dict[str, Any]:
    messages = body.get("messages")
    if isinstance(messages, list) and len(json.dumps(messages)) > 10_000:
        body["messages"] = [{"role": "user", "content": messages[0]["content"][:500]}]
    return body


def cut_texts(body: dict[str, Any]) -> dict[str, Any]:
    text = body.get("input")
    return {**body, "input": text[:100]} if isinstance(text, str) else body


def clamped(body: dict[str, Any]) -> dict[str, Any]:
    return {**body, "temperature": 0} if body.get("temperature") == -1 else body


def without_schema(body: dict[str, Any]) -> dict[str, Any]:
    """The form is forgotten where an answer is not streamed."""
    is_meant = "json_schema" in str(body.get("response_format")) and not body.get("stream")
    return without("response_format")(body) if is_meant else body


def never_empty(body: dict[str, Any]) -> dict[str, Any]:
    return {**body, "input": body.get("input") or "x"}


# … of a stream …


def each_choice(change: Callable[[dict[str, Any]], None]) -> Callable[[list[Any], dict[str, Any]], list[Any]]:
    def changed(events: list[Any], sent: dict[str, Any]) -> list[Any]:
        for event in events:
            for choice in event["choices"] if event != DONE else ():
                change(choice)
        return events

    return changed


def drop_null_reason(choice: dict[str, Any]) -> None:
    if choice["finish_reason"] is None:
        del choice["finish_reason"]


def cut_characters(choice: dict[str, Any]) -> None:
    if choice["delta"].get("content"):
        choice["delta"]["content"] = choice["delta"]["content"].replace("😀", "\ufffd\ufffd")


def drop_role(choice: dict[str, Any]) -> None:
    choice["delta"].pop("role", None)


def spaced(choice: dict[str, Any]) -> None:
    if (choice["delta"].get("content") or "").isspace():
        choice["delta"]["content"] = ""


def merge_end(events: list[Any], sent: dict[str, Any]) -> list[Any]:
    """The reason beside the last text, as some servers have it."""
    chunks = [event for event in events if event != DONE and event["choices"]]
    if sent.get("tools") or len(chunks) < 3:
        return events
    last, before = chunks[-1], chunks[-2]
    before["choices"][0]["finish_reason"] = last["choices"][0]["finish_reason"]
    return [event for event in events if event is not last]


def no_done(events: list[Any], sent: dict[str, Any]) -> list[Any]:
    return [event for event in events if event != DONE]


def new_ids(events: list[Any], sent: dict[str, Any]) -> list[Any]:
    return [e if e == DONE else {**e, "id": f"chatcmpl-{i}"} for i, e in enumerate(events)]


def usage_with_choice(events: list[Any], sent: dict[str, Any]) -> list[Any]:
    for event in events:
        if event != DONE and event.get("usage"):
            event["choices"] = [{"index": 0, "delta": {}, "finish_reason": None}]
    return events


def wrong_usage(events: list[Any], sent: dict[str, Any]) -> list[Any]:
    for event in events:
        if event != DONE and event.get("usage"):
            event["usage"]["completion_tokens"] += 1
            event["usage"]["total_tokens"] += 1
    return events


def lose_delta(events: list[Any], sent: dict[str, Any]) -> list[Any]:
    """The first piece of the text comes without its text."""
    first = next(e for e in events if e["type"] == "response.output_text.delta")
    first["delta"] = ""
    return events


# … and of an answer.

Answered = Callable[[Any, int, dict[str, Any]], tuple[Any, int]]


def when(holds: Callable[[dict[str, Any]], Any], change: Callable[[Any], Any], status: int = 0) -> Answered:
    """Answers to bodies of which `holds` are changed, and their status, if one is given."""

    def changed(body: Any, old_status: int, sent: dict[str, Any]) -> tuple[Any, int]:
        return (change(body), status or old_status) if holds(sent) else (body, old_status)

    return changed


def always(sent: dict[str, Any]) -> bool:
    return True


def is_list(sent: dict[str, Any]) -> bool:
    return isinstance(sent.get("input"), list) and len(sent["input"]) == 3


def each_call(change: Callable[[dict[str, Any]], None]) -> Callable[[Any], Any]:
    def changed(body: Any) -> Any:
        for call in body["choices"][0]["message"].get("tool_calls") or ():
            change(call)
        return body

    return changed


def big_endian(body: Any) -> Any:
    for item in body.get("data", ()):
        if isinstance(item["embedding"], str):
            data = base64.b64decode(item["embedding"])
            numbers = struct.unpack(f"<{len(data) // 4}f", data)
            item["embedding"] = base64.b64encode(struct.pack(f">{len(numbers)}f", *numbers)).decode()
    return body


def one_vector(body: Any) -> Any:
    for item in body["data"]:
        item["embedding"] = body["data"][0]["embedding"]
    return body


def crowded(body: Any, status: int, sent: dict[str, Any]) -> tuple[Any, int]:
    """An answer that depends on who else is there."""
    if Breaking.num_running > 1 and status == 200:
        body["choices"][0]["message"]["content"] += " and so on"
    return body, status

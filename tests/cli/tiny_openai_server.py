"""A server in a thread that streams what it is told to, byte for byte, and remembers what it was asked."""

from __future__ import annotations

import asyncio
import json
import threading
from dataclasses import dataclass, field
from typing import Any

from patience import PATIENCE_S


@dataclass
class Reply:
    """How to answer one completion."""

    status: int = 200
    pieces: list[str] = field(default_factory=lambda: ["Hello", " there", "!"])  # one event each
    thoughts: list[str] = field(default_factory=list)  # before them, one event each
    output_tokens: int | None = None  # None = one a piece; tells apart counting events and reading usage
    send_usage: bool = True
    framing: str = "chunked"  # "chunked", "length", "close"
    cut: int = 0  # bytes a chunk; 0 = one event a chunk
    line_end: str = "\n"
    fail_after: int | None = None  # events, then an error event
    drop_after: int | None = None  # events, then the connection is cut
    stall_after: int | None = None  # events, then silence until the client leaves
    hang_up: bool = False  # close the connection after the answer without saying so


class TinyServer:
    """`with TinyServer() as server`; set `server.replies` (used up in order) or `server.reply`."""

    def __init__(self) -> None:
        self.reply = Reply()
        self.replies: list[Reply] = []
        self.requests: list[dict[str, Any]] = []
        self.headers: list[str] = []
        self.num_connections = 0
        self.client_left = threading.Event()
        self.stalled = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> TinyServer:
        self._thread.start()
        start = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._serve, "127.0.0.1", 0), self._loop
        )
        self._server = start.result(5)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    def __exit__(self, *exc: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE_S)
        self._loop.close()

    async def _stop(self) -> None:
        self._server.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # transports close in a callback

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_connections += 1
        try:
            while await self._answer_one(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.headers.append(head)
        if head.startswith("GET"):
            body = b'{"object": "list", "data": [{"id": "tiny-model"}]}'
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
            return True
        length = next(
            int(line.split(":")[1]) for line in head.splitlines() if line.lower().startswith("content-l")
        )
        request = json.loads(await reader.readexactly(length))
        self.requests.append(request)
        reply = self.replies.pop(0) if self.replies else self.reply
        if reply.status != 200:
            body = json.dumps({"error": {"message": "not today"}}).encode()
            writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%b" % (reply.status, len(body), body))
            return True
        await self._stream(reader, writer, request, reply)
        return reply.framing != "close" and not reply.hang_up

    async def _stream(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        request: dict[str, Any],
        reply: Reply,
    ) -> None:
        events = [event.replace("\n", reply.line_end).encode() for event in _events(request, reply)]
        head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
        if reply.framing == "length":
            writer.write(f"{head}Content-Length: {sum(map(len, events))}\r\n\r\n".encode() + b"".join(events))
            return
        chunked = reply.framing == "chunked"
        writer.write((head + ("Transfer-Encoding: chunked\r\n\r\n" if chunked else "\r\n")).encode())
        if reply.cut:
            data = b"".join(events)
            events = [data[start : start + reply.cut] for start in range(0, len(data), reply.cut)]
        for number, event in enumerate(events):
            if number == reply.drop_after:
                raise ConnectionResetError
            if number == reply.stall_after:
                self.stalled.set()
                await reader.read()
                self.client_left.set()
                raise ConnectionResetError
            writer.write(b"%x\r\n%b\r\n" % (len(event), event) if chunked else event)
            await writer.drain()
        if chunked:
            writer.write(b"0\r\n\r\n")


def prompt_tokens(request: dict[str, Any]) -> int:
    """Ten for the template and two a word: something a load client has to find out."""
    return 10 + 2 * sum(len(message["content"].split()) for message in request["messages"])


def _events(request: dict[str, Any], reply: Reply) -> list[str]:
    def event(data: dict[str, Any]) -> str:
        return f"data: {json.dumps(data)}\n\n"

    def delta(**fields: str) -> str:
        return event({"choices": [{"index": 0, "delta": fields, "finish_reason": None}]})

    events = [delta(role="assistant", content=""), ": a comment\n\n"]
    events += [delta(reasoning_content=piece) for piece in reply.thoughts]
    events += [delta(content=piece) for piece in reply.pieces]
    if reply.fail_after is not None:
        return [*events[: reply.fail_after], event({"error": {"message": "the engine died"}})]
    events.append(event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}))
    if reply.send_usage:
        num_output = len(reply.pieces) if reply.output_tokens is None else reply.output_tokens
        usage = {
            "prompt_tokens": prompt_tokens(request),
            "completion_tokens": num_output,
            "prompt_tokens_details": {"cached_tokens": 4},
        }
        events.append(event({"choices": [], "usage": usage}))
    return [*events, "data: [DONE]\n\n"]

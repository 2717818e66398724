"""An HTTP/1.1 client that costs as little as Python allows, for load on the cores that the server under
test needs.

    python benchmarks/lean_client.py        # its own cost, against a server that does nothing

Requests are bytes made beforehand; connections are kept; an answer is looked at for its status and where it
ends only. It must carry Content-Length, or for an `EventStream` be chunked.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

import uvloop

HOST = "127.0.0.1"


def post(path: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\nContent-Length: "
    return head.encode() + str(len(body)).encode() + b"\r\n\r\n" + body


class Connection(asyncio.Protocol):
    """One kept connection: one request at a time."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._end = -1  # bytes of the answer, once its head is there
        self._answer: asyncio.Future[bytes] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def ask(self, request: bytes) -> asyncio.Future[bytes]:
        """The body. Raises (through the future): RuntimeError unless the status is 200; ConnectionError."""
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)  # type: ignore[attr-defined]
        return self._answer

    def data_received(self, data: bytes) -> None:
        received = self._received
        received += data
        if self._end < 0:
            head = received.find(b"\r\n\r\n")
            if head < 0:
                return
            lines = bytes(received[:head]).lower()
            start = lines.index(b"content-length:") + 15
            self._end = head + 4 + int(lines[start:].split(b"\r\n", 1)[0])
            self._head = head + 4
        if len(received) >= self._end:
            self._complete(self._head)
            self._end = -1

    def _complete(self, begin: int) -> None:
        received, answer = self._received, self._answer
        if not answer or answer.done():
            return
        if received[9:12] == b"200":
            answer.set_result(bytes(received[begin:]))
        else:
            answer.set_exception(RuntimeError(bytes(received[:400]).decode("utf-8", "replace")))
        received.clear()

    def connection_lost(self, error: Exception | None) -> None:
        if self._answer and not self._answer.done():
            self._answer.set_exception(error or ConnectionError("closed"))

    def close(self) -> None:
        self._transport.close()


class EventStream(Connection):
    """One whose answers are server-sent events: an answer is all that came, head and chunk sizes too."""

    def data_received(self, data: bytes) -> None:
        received = self._received
        received += data
        if received.endswith(b"\r\n0\r\n\r\n") or received[9:12] != b"200":
            self._complete(0)


async def connect(port: int, kind: type[Connection] = Connection) -> Connection:
    _, connection = await asyncio.get_running_loop().create_connection(kind, HOST, port)
    return connection


async def one_after_another(port: int, requests: Sequence[bytes]) -> list[float]:
    """Seconds of each request, on one connection."""
    connection = await connect(port)
    times = []
    for request in requests:
        started_s = time.perf_counter()
        await connection.ask(request)
        times.append(time.perf_counter() - started_s)
    connection.close()
    return times


async def at_once(
    port: int, requests: Sequence[bytes], clients: int, kind: type[Connection] = Connection
) -> tuple[float, list[bytes]]:
    """(seconds, answers in no order) of `clients` connections that each wait for their answer."""
    connections = [await connect(port, kind) for _ in range(clients)]
    waiting = iter(requests)
    answers: list[bytes] = []

    async def one(connection: Connection) -> None:
        for request in waiting:  # shared: each is taken once
            answers.append(await connection.ask(request))

    started_s = time.perf_counter()
    await asyncio.gather(*(one(connection) for connection in connections))
    taken_s = time.perf_counter() - started_s
    for connection in connections:
        connection.close()
    return taken_s, answers


class _Trivial(asyncio.Protocol):
    """Answers 2 kB, the size of a base64 embedding, to whatever arrives in one piece."""

    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2048\r\n\r\n" + b"x" * 2048

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._transport.write(self.answer)  # type: ignore[attr-defined]


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(_Trivial, HOST, port)
    print("ready", flush=True)
    await server.serve_forever()


def own_cost(port: int = 8190) -> tuple[float, float, float]:
    """Seconds: median of single requests; a request with 32 clients; the client's CPU of one of these."""
    command = [sys.executable, __file__, "--serve", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert server.stdout
        server.stdout.readline()
        requests = [post("/v1/embeddings", b"x" * 400)] * 4000
        single = statistics.median(uvloop.run(one_after_another(port, requests)))
        cpu_s = time.process_time()
        wall_s, _ = uvloop.run(at_once(port, requests, 32))
        return single, wall_s / len(requests), (time.process_time() - cpu_s) / len(requests)
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    if "--serve" in sys.argv:
        uvloop.run(_serve(int(sys.argv[-1])))
    else:
        one, many, cpu = own_cost()
        print(f"alone: {one * 1e6:.0f} µs a request, median, both ends and the kernel included")
        print(f"32 clients: {many * 1e6:.0f} µs a request; CPU of the client {cpu * 1e6:.0f} µs")

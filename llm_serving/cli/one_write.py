"""uvicorn's HTTP protocol, with what is written in one turn of the event loop sent by one system call.

uvicorn writes the head of an answer and its body apart, and uvloop sends each at once. For a short embedding
the second call cost a tenth of all that the event loop does, and it woke the client twice.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_MAX_KEPT = 64 * 1024  # bytes; more leaves at once, so that the transport can say that its client is slow


class OneWriteTransport:
    """A transport whose writes wait for the end of the event loop's turn. All else is as below it."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._kept: list[bytes] = []
        self._num_kept = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if not self._kept:
            self._loop.call_soon(self.flush)
        self._kept.append(data)
        self._num_kept += len(data)
        if self._num_kept > _MAX_KEPT:
            self.flush()

    def flush(self) -> None:
        """Send what was kept, if anybody still listens."""
        kept, self._kept, self._num_kept = self._kept, [], 0
        if kept and not self._transport.is_closing():
            self._transport.write(kept[0] if len(kept) == 1 else b"".join(kept))

    def close(self) -> None:
        self.flush()
        self._transport.close()


class OneWriteProtocol(HttpToolsProtocol):
    """What `serve` gives to uvicorn as its `http`."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(cast(asyncio.Transport, OneWriteTransport(transport, self.loop)))

"""What the event loop writes in one turn leaves together, in order, and none of it is lost."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from llm_serving.cli.one_write import _MAX_KEPT, OneWriteTransport

pytestmark = pytest.mark.anyio


class Recorder:
    """The transport below: keeps what it is given."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.is_closed = False

    def write(self, data: bytes) -> None:
        assert not self.is_closed
        self.sent.append(data)

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True

    def get_extra_info(self, name: str) -> str:
        return f"about {name}"


def over(below: Recorder) -> OneWriteTransport:
    return OneWriteTransport(cast(asyncio.Transport, below), asyncio.get_running_loop())


async def test_one_write_a_turn() -> None:
    below = Recorder()
    transport = over(below)
    transport.write(b"head ")
    transport.write(b"body")
    assert below.sent == []
    await asyncio.sleep(0)
    assert below.sent == [b"head body"]
    transport.write(b"next")
    await asyncio.sleep(0)
    assert below.sent == [b"head body", b"next"]


async def test_closing_sends_what_was_written() -> None:
    below = Recorder()
    transport = over(below)
    transport.write(b"last words")
    transport.close()
    assert below.sent == [b"last words"]
    assert below.is_closed
    await asyncio.sleep(0)
    assert below.sent == [b"last words"]


async def test_a_client_that_left_meanwhile_gets_nothing() -> None:
    below = Recorder()
    transport = over(below)
    transport.write(b"too late")
    below.close()
    await asyncio.sleep(0)
    assert below.sent == []


async def test_much_is_not_kept() -> None:
    below = Recorder()
    transport = over(below)
    transport.write(b"x" * _MAX_KEPT)
    assert below.sent == []
    transport.write(b"y")
    assert [len(piece) for piece in below.sent] == [_MAX_KEPT + 1]


async def test_all_else_is_the_transport_below() -> None:
    assert over(Recorder()).get_extra_info("peername") == "about peername"

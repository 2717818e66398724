from __future__ import annotations

from collections.abc import Iterator

import pytest
from tiny_openai_server import TinyServer
from tiny_wheel import index

__all__ = ["index"]


@pytest.fixture
def server() -> Iterator[TinyServer]:
    with TinyServer() as server:
        yield server

"""Fixtures of all tests. The server is imported by those that use it only; most tests do not."""

from __future__ import annotations

import functools
import gc
import inspect
import signal
import ssl
from collections.abc import AsyncIterator, Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from patience import PATIENCE_S

from llm_serving.models.cache import default_root


def pytest_configure() -> None:
    """Ctrl-C ends programs under test, also where a shell runs pytest in the background, which ignores it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """What thousands of collected tests are made of stays: the garbage collector need not go through it."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # or extensions list all that Python has not freed when it ends


@pytest.fixture(scope="session", autouse=True)
def nobody_searches_for_garbage() -> Iterator[None]:
    """Each model that comes or goes has the whole process searched, thousands of tests here, which takes
    longer than most of them. `searches_for_garbage` has it done."""
    leave_it = SimpleNamespace(collect=lambda: 0, freeze=lambda: None, unfreeze=lambda: None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("llm_serving.service.memory.gc", leave_it)
        yield


@pytest.fixture(scope="session", autouse=True)
def authorities_are_read_once() -> Iterator[None]:
    """Each client by httpx reads all certificates there are, which no server here has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ssl, "create_default_context", functools.cache(ssl.create_default_context))
        yield


@pytest.fixture(scope="session", autouse=True)
def clients_are_patient() -> Iterator[None]:
    """httpx waits 5 s for whatever a server does where nothing else is said."""
    default = inspect.signature(httpx.get).parameters["timeout"].default
    with pytest.MonkeyPatch.context() as patch:
        for phase in ("connect", "read", "write", "pool"):
            patch.setattr(default, phase, PATIENCE_S)
        yield


@pytest.fixture(scope="session", autouse=True)
def packed_weights_end_with_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Models are the user's; what was packed of tiny ones, a file for each, is nobody's."""
    cache = tmp_path_factory.mktemp("cache")
    (cache / "models").symlink_to(default_root() / "models")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLM_SERVING_CACHE", str(cache))
        yield


@pytest.fixture
def searches_for_garbage(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("llm_serving.service.memory.gc", gc)
    yield
    gc.freeze()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def client() -> AsyncIterator[Any]:
    """A `fake_server.Client` of an app with default settings."""
    from fake_server import open_client

    async with open_client(behaviour={"reply": "Hello, world! 😀"}) as opened:
        yield opened


@pytest.fixture
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hides the services of servers that other tests keep running in this process."""
    monkeypatch.setattr("llm_serving.api.running._running", [])


@pytest.fixture(scope="session")
def live_url() -> Iterator[str]:
    """A live server that says the same sentence to everybody."""
    from fake_server import fake_app, running_server

    with running_server(fake_app(behaviour={"reply": "Hello, world! 😀"})) as url:
        yield url

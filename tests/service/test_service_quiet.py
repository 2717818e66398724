"""What the first answers need not wait for is done when nobody waits for one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from patience import until

from llm_serving.backends.constraints import Constraints
from llm_serving.backends.fake import FakeTokenizer, load_fake_engine
from llm_serving.config import Settings
from llm_serving.engine.protocol import EngineOptions
from llm_serving.service import quiet
from llm_serving.service.model import ChatModel
from llm_serving.service.registry import Registry

pytestmark = pytest.mark.anyio


def load(settings: Settings) -> ChatModel:
    return ChatModel(settings.model_name, load_fake_engine(EngineOptions()), FakeTokenizer())


@pytest.fixture
def prepared(monkeypatch: pytest.MonkeyPatch) -> list[Constraints]:
    calls: list[Constraints] = []
    monkeypatch.setattr(Constraints, "prepare", lambda self: calls.append(self))
    monkeypatch.setattr(quiet, "QUIET_S", 0.05)
    return calls


@asynccontextmanager
async def started(*further: str) -> AsyncIterator[Registry]:
    settings = Settings(engine="fake", model_name="fake", embedding_model="", further_models=further)
    registry = Registry(settings, load=load, measure=lambda settings, kind: None)
    registry.start()
    try:
        await registry.default.settled()
        yield registry
    finally:
        await registry.close()


async def test_forms_are_prepared_for_once_it_is_quiet(prepared: list[Constraints]) -> None:
    async with started() as registry:
        assert not prepared, "the model is ready before"
        await until(lambda: prepared)
        await asyncio.sleep(0.2)
        assert prepared == [registry.default.get().constraints]


async def test_not_while_anybody_uses_any_model(prepared: list[Constraints]) -> None:
    async with started("other") as registry:
        (other,) = registry.further
        with other.used():
            await other.ask()
            await asyncio.sleep(0.3)
            assert not prepared
        await until(lambda: len(prepared) == 2)


async def test_not_for_what_has_gone(prepared: list[Constraints]) -> None:
    async with started() as registry:
        await registry.unload("fake", "")
        await asyncio.sleep(0.3)
        assert not prepared
        await registry.load("fake")
        await until(lambda: prepared)
        assert prepared == [registry.default.get().constraints]


async def test_nothing_is_begun_when_the_server_stops(prepared: list[Constraints]) -> None:
    async with started():
        pass
    await asyncio.sleep(0.2)
    assert not prepared


async def test_a_load_that_outlives_the_server_is_not_disturbed(prepared: list[Constraints]) -> None:
    async with started() as registry:
        slot = registry.default

    async def begin() -> None:
        waiting.begin()

    waiting = quiet.Quiet()
    await asyncio.to_thread(asyncio.run, begin())
    waiting.expect(slot)
    assert not prepared

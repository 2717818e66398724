"""What is left of a model that was unloaded: nothing."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from patience import until
from tiny_models import write_tiny_llama

from llm_serving.backends.fake import FakeTokenizer, load_fake_engine
from llm_serving.config import Settings
from llm_serving.engine.protocol import EngineOptions
from llm_serving.errors import EngineDead, ModelNotFound, ModelUnavailable
from llm_serving.service.model import ChatModel
from llm_serving.service.registry import Registry
from llm_serving.service.slot import ModelSlot, ModelState

pytestmark = pytest.mark.anyio


def load() -> ChatModel:
    return ChatModel("m", load_fake_engine(EngineOptions()), FakeTokenizer())


@asynccontextmanager
async def ready_slot() -> AsyncIterator[ModelSlot[ChatModel]]:
    slot = ModelSlot("m", load)
    slot.start()
    await slot.settled()
    yield slot
    await slot.close()


async def test_life_goes_on() -> None:
    async with ready_slot() as slot:
        for _ in range(3):
            await slot.unload(0.0, "it was unloaded.", 5)
            assert slot.state is ModelState.UNLOADED
            with pytest.raises(ModelUnavailable, match="it was unloaded"):
                slot.get()
            slot.start()
            await slot.settled()
            assert slot.get().name == "m"
            assert slot.reason == ""


async def test_what_was_never_loaded_is_unloaded_at_once() -> None:
    slot = ModelSlot("m", load)
    await slot.unload(0.0, "enough.", 5)
    assert slot.state is ModelState.UNLOADED


@pytest.mark.slow
@pytest.mark.usefixtures("searches_for_garbage")
async def test_no_object_of_it_is_kept() -> None:
    """The garbage collector was told to look away."""
    async with ready_slot() as slot:
        engine = weakref.ref(slot.get().engine)
        assert engine() is not None
        await slot.unload(0.0, "enough.", 5)
        await until(lambda: engine() is None)


async def test_an_engine_that_died_is_not_kept_either() -> None:
    async with ready_slot() as slot:
        engine = weakref.ref(slot.get().engine)
        slot.fail(slot.get(), EngineDead(ValueError()))
        slot.start()
        await slot.settled()
        await until(lambda: engine() is None)
        assert slot.state is ModelState.READY


async def test_late_news_of_a_former_engine_is_not_about_this_one() -> None:
    async with ready_slot() as slot:
        former = slot.get()
        await slot.unload(0.0, "enough.", 5)
        slot.fail(former, EngineDead(ValueError()))
        assert slot.state is ModelState.UNLOADED
        slot.start()
        await slot.settled()
        slot.fail(former, EngineDead(ValueError()))
        assert slot.state is ModelState.READY


async def test_a_model_that_does_not_close_well_is_gone_all_the_same(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(self: ChatModel, drain_s: float = 0.0) -> None:
        raise OSError("disk full")

    async with ready_slot() as slot:
        with monkeypatch.context() as patch:
            patch.setattr(ChatModel, "close", broken)
            await slot.unload(0.0, "enough.", 5)
        assert slot.state is ModelState.UNLOADED
        assert "disk full" in caplog.text
        slot.start()
        await slot.settled()
        assert slot.state is ModelState.READY


@pytest.mark.slow
async def test_threads_of_a_real_engine_end(tmp_path: Path) -> None:
    tasks = Path("/proc/self/task")
    if not tasks.is_dir():
        pytest.skip("needs /proc")

    def native() -> set[str]:
        found = set()
        for task in tasks.iterdir():
            with contextlib.suppress(OSError):  # it has just ended
                if (task / "comm").read_text().strip() == "llm-kernels":
                    found.add(task.name)
        return found - of_others

    def num_engines() -> int:
        return [thread.name for thread in threading.enumerate()].count("engine")

    of_others: set[str] = set()
    of_others = native()  # engines of other tests, which may end meanwhile
    others = num_engines()  # of servers that other tests keep running
    path = write_tiny_llama(tmp_path / "tiny")
    registry = Registry(Settings(model_name=str(path), embedding_model="", cache_dir=tmp_path, threads=4))
    registry.start()
    await registry.default.settled()
    loaded = len(native())
    for _ in range(3):
        await registry.unload("tiny", "")
        assert num_engines() == others
        await until(lambda: len(native()) <= loaded - 3)
        await registry.load("tiny")
        await until(lambda: len(native()) == loaded)
    await registry.close()
    with pytest.raises(ModelUnavailable, match="stopping"):
        await registry.load("tiny")
    with pytest.raises(ModelNotFound):
        await registry.load(str(tmp_path / "other"))

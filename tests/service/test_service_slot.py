"""One model's life, with loaders that are slow, fail, or come too late."""

from __future__ import annotations

import asyncio
import gc
import threading
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from patience import PATIENCE_S, until

from llm_serving.backends.fake import FakeTokenizer
from llm_serving.engine.protocol import Engine, EngineStats
from llm_serving.errors import DownloadError, EngineDead, ModelLoading, ModelUnavailable
from llm_serving.service.model import ChatModel
from llm_serving.service.slot import ModelSlot, ModelState

pytestmark = pytest.mark.anyio


@dataclass
class IdleEngine:
    """Counts how often it is closed."""

    closed_with: list[float] = field(default_factory=list)
    vocab_size: int = 1
    max_context: int = 1

    def stats(self) -> EngineStats:
        return EngineStats(device="none")

    async def close(self, drain_s: float = 0.0) -> None:
        self.closed_with.append(drain_s)


def make_model() -> tuple[ChatModel, IdleEngine]:
    engine = IdleEngine()
    return ChatModel("m", cast(Engine, engine), FakeTokenizer()), engine


async def test_life() -> None:
    model, engine = make_model()
    slot = ModelSlot("m", lambda: model)
    with pytest.raises(ModelUnavailable, match="not started"):
        slot.get()
    slot.start()
    with pytest.raises(ModelLoading):
        slot.get()
    await slot.settled()
    assert slot.get() is model
    await slot.close(1.5)
    assert engine.closed_with == [1.5]
    assert slot.model is None
    with pytest.raises(ModelUnavailable, match="stopping"):
        slot.get()
    await slot.close()
    assert engine.closed_with == [1.5]


async def test_load_is_called_once_however_often_it_is_started() -> None:
    model, _ = make_model()
    calls = []
    may_load = threading.Event()

    def load() -> ChatModel:
        calls.append(threading.current_thread().name)
        may_load.wait(PATIENCE_S)
        return model

    slot = ModelSlot("m", load)
    for _ in range(5):
        slot.start()
        await asyncio.sleep(0)
    may_load.set()
    await asyncio.gather(*(slot.settled() for _ in range(5)))
    slot.start()
    assert calls == ["load-m"]


@pytest.mark.parametrize("first_fails", [False, True])
async def test_one_after_the_other(first_fails: bool) -> None:
    may_load = threading.Event()
    order: list[str] = []

    def load_first() -> ChatModel:
        may_load.wait(PATIENCE_S)
        order.append("first")
        if first_fails:
            raise DownloadError("no network")
        return make_model()[0]

    def load_second() -> ChatModel:
        order.append("second")
        return make_model()[0]

    first, second = ModelSlot("first", load_first), ModelSlot("second", load_second)
    first.start()
    second.start(after=first)
    assert second.state is ModelState.LOADING
    await asyncio.sleep(0.01)
    assert order == []
    may_load.set()
    await second.settled()
    assert order == ["first", "second"]
    assert second.state is ModelState.READY


async def test_closed_before_its_turn_it_is_never_loaded() -> None:
    may_load = threading.Event()
    calls: list[int] = []

    def load_first() -> ChatModel:
        may_load.wait(PATIENCE_S)
        return make_model()[0]

    def load_second() -> ChatModel:
        calls.append(1)
        return make_model()[0]

    first, second = ModelSlot("first", load_first), ModelSlot("second", load_second)
    first.start()
    second.start(after=first)
    await asyncio.gather(first.close(), second.close())
    may_load.set()
    await asyncio.sleep(0.01)
    assert calls == []
    assert second.state is ModelState.UNLOADED


async def test_soon_waits_for_what_is_being_loaded_and_for_nothing_else() -> None:
    model, _ = make_model()
    may_load = threading.Event()

    def load() -> ChatModel:
        may_load.wait(PATIENCE_S)
        return model

    slot = ModelSlot("m", load)
    with pytest.raises(ModelUnavailable, match="not started"):
        await slot.soon(PATIENCE_S)
    slot.start()
    with pytest.raises(ModelLoading):
        await slot.soon(0.01)
    waiting = asyncio.ensure_future(slot.soon(PATIENCE_S))
    await asyncio.sleep(0.01)
    may_load.set()
    assert await waiting is model
    await slot.close()
    with pytest.raises(ModelUnavailable, match="stopping"):
        await slot.soon(PATIENCE_S)


async def test_failure_tells_why_and_may_be_tried_again() -> None:
    model, _ = make_model()
    outcomes: list[Any] = [DownloadError("no\nnetwork"), model]

    def load() -> ChatModel:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return cast(ChatModel, outcome)

    slot = ModelSlot("m", load)
    slot.start()
    await slot.settled()
    assert slot.state is ModelState.FAILED
    with pytest.raises(ModelUnavailable, match="no network"):
        slot.get()
    slot.start()
    await slot.settled()
    assert slot.get() is model
    assert slot.reason == ""


@pytest.mark.parametrize("error", [SystemExit(1), MemoryError(), KeyboardInterrupt()])
async def test_nothing_that_a_loader_raises_is_lost(error: BaseException) -> None:
    def load() -> ChatModel:
        raise error

    slot = ModelSlot("m", load)
    slot.start()
    await slot.settled()
    assert slot.state is ModelState.FAILED
    assert type(error).__name__ in slot.reason


async def test_model_that_comes_after_the_end_is_closed() -> None:
    model, engine = make_model()
    may_load = threading.Event()

    def load() -> ChatModel:
        may_load.wait(PATIENCE_S)
        return model

    slot = ModelSlot("m", load)
    slot.start()
    await slot.close()
    may_load.set()
    await until(lambda: engine.closed_with)
    assert slot.state is ModelState.UNLOADED
    assert slot.model is None


def test_model_that_comes_after_the_loop_is_closed() -> None:
    model, engine = make_model()
    may_load = threading.Event()

    def load() -> ChatModel:
        may_load.wait(PATIENCE_S)
        return model

    async def start_and_leave() -> None:
        ModelSlot("late", load).start()

    asyncio.run(start_and_leave())
    loader = next(thread for thread in threading.enumerate() if thread.name == "load-late")
    may_load.set()
    loader.join(PATIENCE_S)
    assert engine.closed_with == [0.0]


async def test_dead_engine_is_a_failure_and_told_once() -> None:
    model, _ = make_model()
    slot = ModelSlot("m", lambda: model)
    slot.start()
    await slot.settled()
    slot.fail(model, EngineDead(ValueError("detail")))
    slot.fail(model, EngineDead(KeyError("later")))
    assert slot.state is ModelState.FAILED
    with pytest.raises(ModelUnavailable, match="ValueError"):
        slot.get()
    assert slot.model is None


@pytest.mark.slow
@pytest.mark.usefixtures("searches_for_garbage")
async def test_what_a_loaded_model_is_made_of_is_not_searched_for_garbage() -> None:
    gc.unfreeze()
    model, _ = make_model()
    slot = ModelSlot("m", lambda: model)
    slot.start()
    await slot.settled()
    frozen = gc.get_freeze_count()
    gc.unfreeze()
    assert frozen > 0


@pytest.mark.slow
@pytest.mark.usefixtures("searches_for_garbage")
async def test_another_model_is_loaded_beside_it_without_searching_it() -> None:
    """That would stop the answers it is giving."""
    gc.unfreeze()
    slots = []
    for name in ("first", "second"):
        model, _ = make_model()
        slots.append(ModelSlot(name, lambda model=model: model))
    searched: list[int] = []

    def see(phase: str, info: dict[str, int]) -> None:
        if phase == "start" and info["generation"] == 2:
            searched.append(gc.get_freeze_count())

    gc.callbacks.append(see)
    try:
        for slot in slots:
            slot.start()
            await slot.settled()
        await slots[0].unload(0.0, "enough.", 5)
        slots[0].start()
        await slots[0].settled()
    finally:
        gc.callbacks.remove(see)
        gc.unfreeze()
    first, second, unloaded = searched[:3]
    assert first == 0
    assert second > 1000
    assert unloaded == 0, "what it was before may be garbage"

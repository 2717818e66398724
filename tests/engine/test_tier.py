"""The prefix cache's second floor, on the fake runner: what it keeps, finds again, and leaves alone."""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from driving import Driver, alone, limits, request
from test_random_walk import a_request, alone_at

from llm_serving.backends.fake import FakeRunner
from llm_serving.blockstore.store import DiskBlockStore
from llm_serving.engine.blocks import BlockPool, extend_chain
from llm_serving.engine.protocol import EngineOptions
from llm_serving.engine.tier import BlockTier

PROMPT = [(7 * i) % 256 for i in range(42)]  # ten full blocks of 4 and two tokens


class MemoryStore:
    """A `BlockStore` in a dictionary. `room`: blocks that `save` takes until it is busy."""

    def __init__(self, room: float = math.inf) -> None:
        self.blocks: dict[bytes, bytes] = {}
        self.depths: dict[bytes, int] = {}
        self.room = room
        self.lost: set[bytes] = set()  # `has` says yes, `load` says no
        self.touched: list[bytes] = []
        self.load_seconds = 0.0
        self.num_read = self.num_written = self.num_bytes = 0

    def has(self, digest: bytes) -> bool:
        return digest in self.blocks

    def load(self, digest: bytes, depth: int, out: np.ndarray) -> bool:
        time.sleep(self.load_seconds)
        if digest not in self.blocks or digest in self.lost:
            out[:] = 255
            return False
        assert depth == self.depths[digest]
        out[:] = np.frombuffer(self.blocks[digest], np.uint8)
        self.num_read += 1
        return True

    def touch(self, digest: bytes, depth: int) -> bool:
        self.touched.append(digest)
        return digest in self.blocks

    def save(self, digest: bytes, depth: int, read: Callable[[np.ndarray], None]) -> bool:
        if self.room < 1:
            return False
        self.room -= 1
        out = np.empty(32, np.uint8)
        read(out)
        self.blocks[digest] = out.tobytes()
        self.depths[digest] = depth
        self.num_written += 1
        return True

    def close(self) -> None:
        self.room = 0


def ask(driver: Driver, name: str, prompt: list[int], **params: object) -> int:
    """Runs to the end, asserts that the answer is right, and tells how much of the prompt was cached."""
    a_request = request(name, prompt, ignore_eos=True, **params)
    driver.core.submit(a_request)
    driver.run()
    assert driver.tokens(name) == alone(a_request)
    return driver.of(name)[-1].num_cached_tokens


def digests_of(prompt: list[int]) -> list[bytes]:
    digests: list[bytes] = []
    extend_chain(digests, prompt, 4, len(prompt) // 4)
    return digests


def new_driver(store: object, **more: object) -> Driver:
    return Driver(store=store, random=True, **more)


def test_a_new_engine_finds_what_another_computed():
    store = MemoryStore()
    first = new_driver(store)
    assert ask(first, "a", PROMPT, max_tokens=12) == 0
    first.core.close()
    assert list(store.blocks) == digests_of(PROMPT), "the prompt's, and none of the answer"
    second = new_driver(store)
    assert ask(second, "b", [*PROMPT[:30], 5, 6]) == 28
    assert second.runner.num_tokens == 4 + 7
    assert second.core.stats("fake").num_read_blocks == 7
    assert ask(second, "c", PROMPT) == 40
    assert store.num_read == 10, "what is in memory is not read again"


def test_a_prompt_of_full_blocks_computes_its_last_one():
    store = MemoryStore()
    ask(new_driver(store), "a", PROMPT[:40])
    assert ask(new_driver(store), "b", PROMPT[:40]) == 36


def test_an_answer_is_kept_when_a_prompt_goes_on_from_it():
    store = MemoryStore()
    driver = new_driver(store)
    ask(driver, "a", PROMPT, max_tokens=30)
    longer = [*PROMPT, *driver.tokens("a"), 1, 2, 3, 4]
    assert len(store.blocks) == 10
    assert ask(driver, "b", longer) == 68  # what the last token computed is not known
    driver.core.close()
    assert set(store.blocks) == set(digests_of(longer))
    assert ask(new_driver(store), "c", longer) == 72


@pytest.mark.slow
def test_beside_steps_little_is_saved_and_the_rest_when_there_are_none(monkeypatch: pytest.MonkeyPatch):
    now_s = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    monkeypatch.setattr("llm_serving.engine.tier.BUSY_BYTES_S", 64)  # two blocks of 32 bytes a second
    store = MemoryStore()
    driver = new_driver(store)
    driver.core.submit(request("a", PROMPT, max_tokens=4, ignore_eos=True))
    assert driver.core.scheduler.prefixes.tier is not None
    driver.core.scheduler.prefixes.tier._saved_s = now_s
    saved = []
    for seconds in (0.0, 0.6, 0.3, 0.3, 1.1):
        now_s += seconds
        driver.step()
        saved.append(len(store.blocks))
    assert saved == [0, 1, 1, 2, 4]
    assert not driver.core.scheduler.has_work
    threading.Timer(0.2, driver.core.stop).start()
    driver.core.run()
    assert len(store.blocks) == 10


def test_a_busy_store_is_asked_again_and_nothing_is_lost():
    store = MemoryStore(room=2)
    driver = new_driver(store)
    ask(driver, "a", PROMPT)
    assert len(store.blocks) == 2
    store.room = 3
    ask(driver, "b", [9])
    assert len(store.blocks) == 5
    store.room = 1
    ask(driver, "c", [8])
    assert len(store.blocks) == 6
    store.room = math.inf
    driver.core.close()
    assert len(store.blocks) == 10
    assert driver.core.stats("fake").num_dropped_blocks == 0


def test_blocks_that_leave_memory_before_they_are_saved_are_dropped():
    store = MemoryStore(room=0)
    driver = new_driver(store, runner_limits=limits(num_blocks=16, max_context=60))
    ask(driver, "a", PROMPT)
    ask(driver, "b", [3] * 50)
    store.room = math.inf
    driver.core.close()
    dropped = driver.core.stats("fake").num_dropped_blocks
    assert dropped > 0
    assert len(store.blocks) + dropped == 10 + 12


def test_only_so_many_wait_to_be_saved(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("llm_serving.engine.tier.MOST_UNSAVED", 4)
    store = MemoryStore(room=0)
    driver = new_driver(store)
    ask(driver, "a", PROMPT)
    assert driver.core.stats("fake").num_dropped_blocks == 6


def test_a_block_that_is_announced_and_missing_is_computed():
    store = MemoryStore()
    ask(new_driver(store), "a", PROMPT)
    store.lost = {digests_of(PROMPT)[3]}
    driver = new_driver(store)
    assert ask(driver, "b", PROMPT) == 12
    assert driver.core.scheduler.pool.num_free == 64


def test_a_use_in_memory_is_noted():
    """Or a block that is used all the time would leave the disk as the oldest."""
    store = MemoryStore()
    driver = new_driver(store)
    ask(driver, "a", PROMPT)
    store.touched.clear()
    ask(driver, "b", PROMPT)
    assert store.touched == digests_of(PROMPT)


def test_while_others_decode_loading_takes_a_prompts_share_of_each_step():
    store = MemoryStore()
    ask(new_driver(store), "a", PROMPT)
    driver = new_driver(store, prefill_budget=8)
    driver.core.submit(request("decoding", [1, 2, 3], max_tokens=60, ignore_eos=True))
    driver.step()
    tier, costs = driver.core.scheduler.prefixes.tier, driver.core.scheduler.budget.costs
    assert tier is not None
    read = [store.num_read]
    driver.core.submit(request("b", PROMPT, max_tokens=4, ignore_eos=True))
    while not driver.of("b"):
        tier._load_s = 3 * costs.prompt_token_s  # three tokens' time: two blocks a step
        store.load_seconds = tier._load_s
        driver.step()
        read.append(store.num_read)
    assert max(b - a for a, b in zip(read, read[1:], strict=False)) == 2
    assert read[-1] == 10
    driver.run()
    assert driver.of("b")[-1].num_cached_tokens == 40
    assert driver.tokens("b") == alone(request("b", PROMPT, max_tokens=4, ignore_eos=True))
    assert driver.tokens("decoding") == alone(request("decoding", [1, 2, 3], max_tokens=60, ignore_eos=True))


@pytest.mark.slow
def test_a_disk_slower_than_computing_is_left_alone_and_asked_again_later():
    store = MemoryStore()
    runner = FakeRunner(limits())
    tier = BlockTier(runner, store)
    pool = BlockPool(64)
    digests = digests_of([*range(200)])
    for depth, digest in enumerate(digests):
        store.save(digest, depth, lambda out: out.fill(0))
    store.load_seconds = 0.01
    assert tier.load(pool, digests[:20], 0, block_s=1.0, most_s=math.inf) > 0
    assert store.num_read == 20
    for _ in range(2):
        assert tier.load(pool, digests[20:], 20, block_s=0.004, most_s=math.inf) == 0
    assert store.num_read == 20
    assert tier.load(pool, digests[20:22], 20, block_s=1.0, most_s=math.inf) > 0
    assert store.num_read == 22
    assert tier.take_loading_s() > 0.2
    assert tier.take_loading_s() == 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_random_walk_over_restarts(seed: int, tmp_path: Path):
    """Small pools, a small disk, engines that end at any moment: the same answers as without."""
    rng = random.Random(seed)
    max_context, behaviour = 40, {"random": True}
    num_read = 0
    for turn in range(5):
        runner_limits = limits(22, 4, rng.choice([3, 8, 32]), 6, max_context)
        options = EngineOptions(max_concurrency=6, max_queue=20)
        store = DiskBlockStore(tmp_path, rng.choice([2000, 100_000]), b"the fake model 1", 32)
        budget = rng.choice([None, 4])
        driver = Driver(runner_limits, options, prefill_budget=budget, store=store, **behaviour)
        requests = [a_request(rng, number, max_context) for number in range(12)]
        for each in requests:
            driver.core.submit(each)
            if rng.random() < 0.5:
                driver.step()
        if turn % 2:
            driver.run()
            driver.core.close()
        for each in requests:
            expected = alone_at(each, max_context, behaviour)
            tokens = driver.tokens(each.request_id)
            assert tokens == expected[: len(tokens)] if not turn % 2 else tokens == expected
        num_read += store.num_read
        store.close()
    assert num_read > 5

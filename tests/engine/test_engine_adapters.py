"""Adapters in the engine: steps that name them, and a prefix cache that never mixes them up."""

from __future__ import annotations

from dataclasses import replace
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pytest
from driving import Driver, limits, request

from llm_serving.backends.fake import FAKE_MODEL
from llm_serving.blockstore.store import DiskBlockStore
from llm_serving.engine.blocks import extend_chain
from llm_serving.engine.protocol import EngineOptions, RunnerLimits
from llm_serving.engine.request import GenerateRequest
from llm_serving.errors import InvalidRequest

PROMPT = list(range(40, 70))
DIGESTS = tuple(blake2b(bytes([i]), digest_size=16).digest() for i in range(3))


def adapting(**more: int) -> RunnerLimits:
    return replace(limits(**more), adapters=DIGESTS)


def asking(
    name: str, adapter: int | None, prompt: list[int] = PROMPT, max_tokens: int = 6
) -> GenerateRequest:
    return replace(request(name, prompt, max_tokens=max_tokens, ignore_eos=True), adapter=adapter)


def answer(its_request: GenerateRequest, max_step_tokens: int = 64) -> list[int]:
    driver = Driver(adapting(max_step_tokens=max_step_tokens), random=True)
    driver.core.submit(its_request)
    driver.run()
    return driver.tokens(its_request.request_id)


def test_each_adapter_has_answers_of_its_own() -> None:
    answers = {tuple(answer(asking("r", adapter))) for adapter in (None, 0, 1, 2)}
    assert len(answers) == 4


def test_all_in_one_batch_answer_as_alone() -> None:
    driver = Driver(adapting(), random=True)
    asked = [asking(f"r{i}", adapter) for i, adapter in enumerate((1, None, 0, 2, 1, None))]
    for each in asked:
        driver.core.submit(each)
    driver.run()
    for each in asked:
        assert driver.tokens(each.request_id) == answer(each)


@pytest.mark.parametrize("max_step_tokens", [1, 3, 7, 11])
def test_any_cut_into_steps_is_the_same(max_step_tokens: int) -> None:
    assert answer(asking("r", 1), max_step_tokens) == answer(asking("r", 1))


def test_the_same_prompt_is_found_under_the_same_adapter_only() -> None:
    driver = Driver(adapting(), random=True)
    order = (("first", 0), ("same", 0), ("other", 1), ("base", None), ("base again", None), ("last", 0))
    for name, adapter in order:
        driver.core.submit(asking(name, adapter))
        driver.run()
        assert driver.tokens(name) == answer(asking(name, adapter))
    cached = [driver.of(name)[-1].num_cached_tokens for name, _ in order]
    assert cached == [0, 28, 0, 0, 28, 28]


def test_equal_adapters_share() -> None:
    """What counts is what an adapter does, not its name or its place."""
    driver = Driver(replace(limits(), adapters=(DIGESTS[0], DIGESTS[0])))
    chains = []
    for adapter in (0, 1):
        driver.core.submit(asking(str(adapter), adapter, max_tokens=50))
        driver.step()
        chains.append(driver.core.scheduler.running[-1].digests)
    assert chains[0][:7] == chains[1][:7]


def test_blocks_on_disk_are_those_of_the_adapter(tmp_path: Path) -> None:
    def run(adapter: int | None, digests: tuple[bytes, ...]) -> int:
        runner_limits = replace(adapting(), adapters=digests)
        store = DiskBlockStore(tmp_path, 1 << 20, FAKE_MODEL, 2 * runner_limits.block_size * 4)
        driver = Driver(runner_limits, store=store, random=True)
        driver.core.submit(asking("r", adapter))
        driver.run()
        assert driver.tokens("r") == answer(asking("r", adapter)) or digests != DIGESTS
        cached = driver.of("r")[-1].num_cached_tokens
        driver.core.close()
        return cached

    assert run(0, DIGESTS) == 0
    assert run(1, DIGESTS) == 0
    assert run(None, DIGESTS) == 0
    assert run(0, DIGESTS) == 28
    assert run(1, DIGESTS) == 28
    assert run(None, ()) == 28, "also without any adapter"
    assert run(0, (DIGESTS[2],)) == 0, "another adapter in its place"


def test_who_gives_way_keeps_its_adapter() -> None:
    driver = Driver(adapting(num_blocks=18), EngineOptions(max_concurrency=3), random=True)
    asked = [asking(f"r{i}", i, max_tokens=20) for i in range(3)]
    for each in asked:
        driver.core.submit(each)
    driver.run()
    assert driver.core.stats("fake").num_preemptions > 0
    for each in asked:
        assert driver.tokens(each.request_id) == answer(each)


def test_a_chain_has_a_root() -> None:
    def chain(root: bytes) -> list[bytes]:
        digests: list[bytes] = []
        extend_chain(digests, PROMPT, 4, 3, root=root)
        extend_chain(digests, PROMPT, 4, 7, root=root)
        whole: list[bytes] = []
        extend_chain(whole, PROMPT, 4, 7, root=root)
        assert digests == whole
        return digests

    chains = [chain(root) for root in (b"", *DIGESTS)]
    assert len({digest for digests in chains for digest in digests}) == 4 * 7


def test_steps_name_adapters_only_where_there_are_some() -> None:
    driver = Driver(adapting())
    seen: list[np.ndarray | None] = []
    run = driver.runner.run
    driver.runner.run = lambda step: (seen.append(step.adapters), run(step))[1]  # type: ignore[method-assign]
    driver.core.submit(asking("base", None, max_tokens=3))
    driver.run()
    assert seen == [None] * len(seen)
    assert seen
    driver.core.submit(asking("base", None))
    driver.core.submit(asking("own", 2))
    driver.step()
    assert seen[-1] is not None
    assert seen[-1].dtype == np.int32
    assert sorted(seen[-1].tolist()) == [-1, 2]


@pytest.mark.parametrize("adapter", [-1, 3])
def test_unknown_adapters_are_refused(adapter: int) -> None:
    with pytest.raises(InvalidRequest, match="no adapter"):
        Driver(adapting()).core.submit(asking("r", adapter))
    with pytest.raises(InvalidRequest, match="run with 0"):
        Driver().core.submit(asking("r", 0))

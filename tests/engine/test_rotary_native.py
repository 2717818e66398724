"""Pictures in three dimensions on the real kernels: in company, after giving way, behind drafts as alone."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from hashlib import blake2b

import numpy as np
import pytest
from tiny_qwen3_5_vl import write_tiny_qwen3_5
from tiny_qwen_vl import HIDDEN, PLACE, write_tiny_qwen_vl

from llm_serving.backends.native_backend import build_runner
from llm_serving.checkpoints import build_tokenizer, open_checkpoint
from llm_serving.engine.core import EngineCore
from llm_serving.engine.protocol import EngineOptions
from llm_serving.engine.request import GenerateRequest, GivenRows, SamplingParams, TokenEvent
from llm_serving.engine.sampler import NumpySampler
from llm_serving.native.runner import NativeRunner

pytestmark = pytest.mark.slow

Model = tuple[NativeRunner, list[bytes]]


@pytest.fixture(scope="module", params=[write_tiny_qwen_vl, write_tiny_qwen3_5])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    """All layers attend, or one remembers: then what is found again ends where a state was kept."""
    checkpoint = open_checkpoint(request.param(tmp_path_factory.mktemp("qwen")))
    runner = build_runner(checkpoint, EngineOptions(threads=2, max_concurrency=4))
    yield runner, build_tokenizer(checkpoint).token_bytes
    runner.close()


def core_of(model: Model, num_blocks: int = 200) -> tuple[EngineCore, list[TokenEvent]]:
    """An engine of its own: what others left in the runner's memory is not found."""
    runner, token_bytes = model
    events: list[TokenEvent] = []
    whole = runner.limits
    runner.limits = replace(whole, num_blocks=min(num_blocks, whole.num_blocks))
    options = EngineOptions(max_concurrency=4)
    core = EngineCore(runner, NumpySampler(), token_bytes, options, events.extend, print)
    runner.limits = whole
    return core, events


def answers(core: EngineCore, events: list[TokenEvent], requests: list[GenerateRequest]) -> list[list[int]]:
    for each in requests:
        core.submit(each)
    while core.scheduler.has_work or not events:
        events += core.step()
        core.scheduler.check_integrity()
    found = [[t for e in events if e.request_id == r.request_id for t in e.token_ids] for r in requests]
    events.clear()
    return found


def asked(name: str, seed: int, max_tokens: int = 40) -> GenerateRequest:
    """Texts between pictures of several shapes, of which others have some, too."""
    rng = random.Random(seed)
    ids, given = [5] * rng.randrange(1, 20), []
    for number in range(rng.randrange(3)):
        grid = rng.choice([(2, 9), (6, 3), (3, 6), (4, 4), (1, 20)])
        rows = np.random.default_rng(number).standard_normal((grid[0] * grid[1], HIDDEN))
        rows = rows.astype(np.float32)
        digest = blake2b(rows, digest_size=16, person=b"%d x %d" % grid).digest()
        given.append(GivenRows(len(ids), rows, digest, grid))
        ids += [PLACE] * len(rows) + [rng.randrange(290) for _ in range(rng.randrange(1, 12))]
    ids += [7, 8, 9, 7, 8, 9, 7, 8]  # something that repeats itself, so that drafts are tried
    sampling = SamplingParams(max_tokens=max_tokens, temperature=0.0)
    return GenerateRequest(name, ids, sampling, given=tuple(given))


def test_in_company_after_giving_way_and_behind_drafts(model: Model) -> None:
    requests = [asked(f"r{seed}", seed) for seed in range(12)]
    alone, num_drafted = [], 0
    for each in requests:
        core, events = core_of(model)
        alone.append(answers(core, events, [each])[0])
        num_drafted += core.stats("x").num_drafted_tokens
    core, events = core_of(model, num_blocks=16)
    assert answers(core, events, requests) == alone
    stats = core.stats("x")
    assert stats.num_preemptions > 0
    # In company drafts are made where few run, which depends on how long steps take.
    assert (num_drafted > 0) == model[0].limits.takes_drafts
    assert stats.num_cached_tokens > 0


def test_the_same_rows_in_another_shape_are_another_picture(model: Model) -> None:
    rows = np.random.default_rng(1).standard_normal((18, HIDDEN)).astype(np.float32)
    core, events = core_of(model)
    found = []
    for number, grid in enumerate([(2, 9), (3, 6), (9, 2), (2, 9)]):
        given = GivenRows(1, rows, blake2b(rows, digest_size=16, person=b"%d x %d" % grid).digest(), grid)
        request = replace(asked(f"r{number}", 0), prompt_ids=[5, *[PLACE] * 18, *range(40)], given=(given,))
        before = core.stats("x").num_cached_tokens
        found.append((answers(core, events, [request])[0], core.stats("x").num_cached_tokens - before))
    assert [cached for _, cached in found] == [0, 0, 0, 48]
    assert found[0][0] == found[3][0]
    assert len({tuple(tokens) for tokens, _ in found}) == 3

"""What every `ModelRunner` must do: a row's logits depend on that sequence's own tokens, bit for bit."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import numpy as np
import pytest
from runner_factories import FACTORIES

from llm_serving.engine.protocol import ModelRunner, Step


@pytest.fixture(params=[factory for _, factory in FACTORIES], ids=[name for name, _ in FACTORIES])
def runner(request: pytest.FixtureRequest) -> Iterator[ModelRunner]:
    made = request.param()
    yield made
    made.close()
    made.close()


SLOTS = itertools.count()


class Fed:
    """A sequence on the runner: its tokens, how many are computed, its blocks."""

    def __init__(self, token_ids: list[int], blocks: list[int]) -> None:
        self.token_ids = token_ids
        self.num_computed = 0
        self.blocks = blocks
        self.slot = next(SLOTS)  # of its state, if the runner has states
        self.state = -1  # where that is now


def blocks_for(runner: ModelRunner, token_ids: list[int], rng: random.Random, taken: set[int]) -> list[int]:
    """Scattered blocks: nothing may rely on neighbours."""
    free = [block for block in range(runner.limits.num_blocks) if block not in taken]
    blocks = rng.sample(free, -(-len(token_ids) // runner.limits.block_size))
    taken.update(blocks)
    return blocks


def step(runner: ModelRunner, work: list[tuple[Fed, int]]) -> list[np.ndarray]:
    """Compute the next `count` tokens of each; a copy of each one's logits, float32 [count, vocab]."""
    width = max(len(fed.blocks) for fed, _ in work)
    starts = np.cumsum([0] + [count for _, count in work])
    token_ids, positions = [], []
    for fed, count in work:
        span = range(fed.num_computed, fed.num_computed + count)
        token_ids += [fed.token_ids[position] for position in span]
        positions += span
        fed.num_computed += count
    logits = runner.run(
        Step(
            token_ids=np.array(token_ids, np.int32),
            positions=np.array(positions, np.int32),
            query_starts=starts.astype(np.int32),
            block_tables=np.array(
                [fed.blocks + [-1] * (width - len(fed.blocks)) for fed, _ in work], np.int32
            ),
            logit_rows=np.arange(starts[-1], dtype=np.int32),
            state_segments=segments(runner, [fed for fed, _ in work], starts[1:].tolist()),
        )
    )
    assert logits.dtype == np.float32
    assert logits.shape == (starts[-1], runner.limits.vocab_size)
    return [logits[a:b].copy() for a, b in zip(starts, starts[1:], strict=False)]


def segments(runner: ModelRunner, sequences: list[Fed], ends: list[int]) -> np.ndarray | None:
    """Each goes on from its state, in its own slot."""
    num_states = runner.limits.num_states
    if not num_states:
        return None
    rows = []
    for fed, end in zip(sequences, ends, strict=True):
        rows.append((end, fed.state, fed.slot % num_states))
        fed.state = fed.slot % num_states
    return np.array(rows, np.int32)


def alone(runner: ModelRunner, token_ids: list[int], chunk: int, seed: int = 0) -> np.ndarray:
    rng = random.Random(seed)
    fed = Fed(token_ids, blocks_for(runner, token_ids, rng, set()))
    parts = []
    while fed.num_computed < len(token_ids):
        parts += step(runner, [(fed, min(chunk, len(token_ids) - fed.num_computed))])
    return np.concatenate(parts)


def tokens(count: int, seed: int) -> list[int]:
    return random.Random(seed).choices(range(256), k=count)


def same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.tobytes() == b.tobytes()


def test_chunks_do_not_matter(runner: ModelRunner):
    prompt = tokens(30, 1)
    whole = alone(runner, prompt, 30)
    for chunk in (1, 3, 4, 7, 29):
        assert same(alone(runner, prompt, chunk, seed=chunk), whole), chunk


def test_company_does_not_matter(runner: ModelRunner):
    rng = random.Random(2)
    prompts = [tokens(rng.randrange(1, 50), seed) for seed in range(4)]
    expected = [alone(runner, prompt, 11) for prompt in prompts]
    taken: set[int] = set()
    fed = [Fed(prompt, blocks_for(runner, prompt, rng, taken)) for prompt in prompts]
    parts: list[list[np.ndarray]] = [[] for _ in prompts]
    while any(each.num_computed < len(each.token_ids) for each in fed):
        open_ones = [i for i, each in enumerate(fed) if each.num_computed < len(each.token_ids)]
        chosen = rng.sample(open_ones, rng.randrange(1, len(open_ones) + 1))
        work = [(fed[i], rng.randrange(1, min(8, len(prompts[i]) - fed[i].num_computed) + 1)) for i in chosen]
        for i, logits in zip(chosen, step(runner, work), strict=True):
            parts[i].append(logits)
    for got, whole in zip(parts, expected, strict=True):
        assert same(np.concatenate(got), whole)


def test_a_shared_prefix_is_as_good_as_an_own_one(runner: ModelRunner):
    block_size = runner.limits.block_size
    prefix, taken, rng = tokens(2 * block_size, 3), set(), random.Random(3)
    first = Fed([*prefix, 1, 2, 3], blocks_for(runner, [*prefix, 1, 2, 3], rng, taken))
    step(runner, [(first, len(prefix))])
    other = [*prefix, 9, 8]
    second = Fed(other, first.blocks[:2] + blocks_for(runner, [9, 8], rng, taken))
    second.num_computed, second.state = len(prefix), first.state
    shared = step(runner, [(second, 2)])[0]
    assert same(shared, alone(runner, other, 5)[-2:])


def test_blocks_can_be_used_again(runner: ModelRunner):
    rng = random.Random(4)
    blocks = blocks_for(runner, tokens(40, 4), rng, set())
    step(runner, [(Fed(tokens(40, 4), blocks), 40)])
    prompt = tokens(17, 5)
    again = step(runner, [(Fed(prompt, blocks[::-1][: -(-17 // runner.limits.block_size)]), 17)])[0]
    assert same(again, alone(runner, prompt, 17))


def test_drafts_that_are_taken_back_leave_nothing(runner: ModelRunner):
    if not runner.limits.takes_drafts:
        return
    prompt = tokens(30, 7)
    fed = Fed([*prompt[:14], 1, 2, 3, 4, 5, 6], blocks_for(runner, prompt, random.Random(7), set()))
    step(runner, [(fed, 14)])
    step(runner, [(fed, 6)])
    fed.token_ids, fed.num_computed = prompt, 14
    again = [step(runner, [(fed, count)])[0] for count in (1, 2, 13)]
    assert same(np.concatenate(again), alone(runner, prompt, 30)[14:])


def test_every_token_of_the_context_matters(runner: ModelRunner):
    prompt = tokens(20, 6)
    whole = alone(runner, prompt, 20)
    for position in (0, 7, 19):
        changed = [*prompt]
        changed[position] = (changed[position] + 1) % 256
        logits = alone(runner, changed, 20)
        assert same(logits[:position], whole[:position]), "the past does not depend on the future"
        assert not same(logits[-1], whole[-1])


def test_only_the_wanted_rows_in_the_wanted_order(runner: ModelRunner):
    prompt = tokens(10, 7)
    whole = alone(runner, prompt, 10)
    width = -(-10 // runner.limits.block_size)
    for rows in ([9], [2, 9], [9, 0], []):
        logits = runner.run(
            Step(
                token_ids=np.array(prompt, np.int32),
                positions=np.arange(10, dtype=np.int32),
                query_starts=np.array([0, 10], np.int32),
                block_tables=np.arange(width, dtype=np.int32)[None],
                logit_rows=np.array(rows, np.int32),
                state_segments=segments(runner, [Fed(prompt, [])], [10]),
            )
        )
        assert logits.shape == (len(rows), runner.limits.vocab_size)
        assert same(logits, whole[rows])


def test_the_limits_can_be_reached(runner: ModelRunner):
    limits = runner.limits
    full = tokens(limits.max_context, 8)
    assert np.isfinite(alone(runner, full, limits.max_step_tokens)).all()
    rng, taken = random.Random(9), set()
    prompts = [tokens(1, seed) for seed in range(min(limits.max_sequences, limits.max_step_tokens))]
    work = [(Fed(prompt, blocks_for(runner, prompt, rng, taken)), 1) for prompt in prompts]
    assert len(step(runner, work)) == len(prompts)

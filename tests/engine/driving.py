"""Small engines on the fake runner, driven step by step on the test's own thread."""

from __future__ import annotations

import math
from hashlib import blake2b

import numpy as np

from llm_serving.backends.fake import EOS_ID, GIVEN_WIDTH, VOCAB_SIZE, FakeRunner, FakeTokenizer
from llm_serving.engine.budget import PrefillBudget
from llm_serving.engine.core import EngineCore
from llm_serving.engine.protocol import BlockStore, EngineOptions, RunnerLimits
from llm_serving.engine.request import GenerateRequest, GivenRows, SamplingParams, TokenEvent
from llm_serving.engine.sampler import NumpySampler
from llm_serving.engine.tier import BlockTier

TOKENIZER = FakeTokenizer()


def limits(
    num_blocks: int = 64,
    block_size: int = 4,
    max_step_tokens: int = 32,
    max_sequences: int = 8,
    max_context: int = 128,
    takes_drafts: bool = True,
    num_states: int = 0,
) -> RunnerLimits:
    return RunnerLimits(
        VOCAB_SIZE,
        block_size,
        num_blocks,
        max_step_tokens,
        max_sequences,
        max_context,
        takes_drafts and not num_states,
        given_width=GIVEN_WIDTH,
        num_states=num_states,
    )


def request(
    request_id: str,
    prompt: str | list[int],
    max_tokens: int = 8,
    *,
    ignore_eos: bool = False,
    **sampling: object,
) -> GenerateRequest:
    ids = TOKENIZER.encode(prompt) if isinstance(prompt, str) else prompt
    params = SamplingParams(max_tokens=max_tokens, **{"temperature": 0.0, **sampling})
    return GenerateRequest(request_id, ids, params, frozenset() if ignore_eos else frozenset({EOS_ID}))


def picture(start: int, number: int, length: int) -> GivenRows:
    """Rows for `length` tokens from `start` on, the first of those that this picture has."""
    rows = np.random.default_rng(number).standard_normal((64, GIVEN_WIDTH)).astype(np.float32)[:length]
    return GivenRows(start, rows, blake2b(rows, digest_size=16).digest())


class FixedBudget(PrefillBudget):
    """Whatever steps cost."""

    def __init__(self, num_tokens: int) -> None:
        super().__init__(step_s=1.0)
        self._num_tokens = num_tokens

    def num_tokens(self, num_rows: int, num_waiting: int = 1) -> int:
        return self._num_tokens


class PatientTier(BlockTier):
    """Loads whatever is there, though the fake runner computes it in no time."""

    PATIENCE = math.inf


class Driver:
    """An `EngineCore` without its thread; keeps every event and checks integrity after every step."""

    def __init__(
        self,
        runner_limits: RunnerLimits | None = None,
        options: EngineOptions | None = None,
        prefill_budget: int | None = None,
        store: BlockStore | None = None,
        **behaviour: object,
    ) -> None:
        self.runner = FakeRunner(runner_limits or limits(), **behaviour)
        self.deaths: list[BaseException] = []
        self.events: list[TokenEvent] = []
        self.core = EngineCore(
            self.runner,
            NumpySampler(),
            TOKENIZER.token_bytes,
            options or EngineOptions(),
            self.events.extend,
            self.deaths.append,
            None if store is None else PatientTier(self.runner, store),
        )
        if prefill_budget is not None:
            self.core.scheduler.budget = FixedBudget(prefill_budget)

    def step(self) -> list[TokenEvent]:
        events = self.core.step()
        self.core.scheduler.check_integrity()
        self.events.extend(events)
        return events

    def run(self, max_steps: int = 10_000) -> None:
        for _ in range(max_steps):
            self.step()
            if not self.core.scheduler.has_work:
                return
        raise AssertionError(f"not finished after {max_steps} steps")

    def of(self, request_id: str) -> list[TokenEvent]:
        return [event for event in self.events if event.request_id == request_id]

    def tokens(self, request_id: str) -> list[int]:
        return [token for event in self.of(request_id) for token in event.token_ids]

    def text(self, request_id: str) -> str:
        return "".join(event.text for event in self.of(request_id))


def alone(a_request: GenerateRequest) -> list[int]:
    """The tokens this request gives in an engine of its own."""
    driver = Driver(random=True)
    driver.core.submit(a_request)
    driver.run()
    return driver.tokens(a_request.request_id)

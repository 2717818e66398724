"""Engines on the fake runner that have a draft model, on machines whose costs are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from driving import Driver, limits

from llm_serving.backends.fake import VOCAB_SIZE, FakeRunner
from llm_serving.engine.budget import PrefillBudget, StepCosts
from llm_serving.engine.draft_model import DraftModel
from llm_serving.engine.protocol import RunnerLimits, Step
from llm_serving.engine.sampler import NumpySampler
from llm_serving.engine.speculation import MAX_DRAFTING

TEXT = "Quartz jackdaws vex my big sphinx; few people who hold pens would make any such claim at all."


class FixedCosts(StepCosts):
    """Of a machine on which a step takes what it is told, whatever the clock says."""

    def __init__(self, base_s: float, row_s: float, token_s: float) -> None:
        super().__init__()
        self._costs = [base_s, row_s, token_s]

    def observe(self, num_rows: int, num_prompt_tokens: int, seconds: float) -> None:
        pass


class Recorder(FakeRunner):
    """Remembers how many sequences and tokens each step had."""

    def __init__(self, runner_limits: RunnerLimits, **behaviour: object) -> None:
        super().__init__(runner_limits, **behaviour)  # type: ignore[arg-type]
        self.steps: list[tuple[int, int]] = []

    def run(self, step: Step) -> np.ndarray:
        self.steps.append((len(step.query_starts) - 1, len(step.token_ids)))
        return super().run(step)


class Drafted(Driver):
    """An engine whose steps are said to take a second, and a draft model that says `draft`."""

    def __init__(
        self,
        runner_limits: RunnerLimits | None = None,
        draft: str | None = TEXT,
        draft_limits: RunnerLimits | None = None,
        draft_costs: tuple[float, float, float] = (0.04, 0.005, 0.005),
        **more: object,
    ) -> None:
        runner_limits = runner_limits or limits(num_blocks=300, max_context=400)
        super().__init__(runner_limits, **more)  # type: ignore[arg-type]
        context = runner_limits.max_context + 8
        self.draft = Recorder(
            draft_limits or replace(limits(MAX_DRAFTING * -(-context // 4)), max_context=context),
            reply=draft,
            random=draft is None,
        )
        self.model = DraftModel(self.draft, NumpySampler(), VOCAB_SIZE)
        self.model.costs = FixedCosts(*draft_costs)
        drafting = self.core.scheduler.drafting
        drafting.model = self.model
        drafting.budget = PrefillBudget(step_s=2.0)
        drafting.budget.costs = FixedCosts(1.0, 0.01, 0.01)

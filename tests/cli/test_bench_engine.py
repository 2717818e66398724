"""The engine benchmark drives a runner by its contract; the fake runner checks every block it names."""

from __future__ import annotations

import pytest

from llm_serving.backends.fake import FakeRunner
from llm_serving.cli.bench_engine import measure_decode, measure_prefill
from llm_serving.cli.program import run
from llm_serving.engine.protocol import RunnerLimits

LIMITS = RunnerLimits(
    vocab_size=516, block_size=4, num_blocks=64, max_step_tokens=16, max_sequences=4, max_context=128
)


@pytest.mark.parametrize("size", [1, 15, 16, 17, 100])
def test_prefill_computes_each_token_once_a_repeat(size: int) -> None:
    runner = FakeRunner(LIMITS)
    rate = measure_prefill(runner, size, repeats=2)
    assert (rate.work, rate.size) == ("prefill", size)
    assert 0 < rate.median <= rate.best
    assert runner.num_tokens == 3 * size  # one to warm up


@pytest.mark.parametrize("batch", [1, 4])
def test_decode_grows_every_sequence_by_one_a_step(batch: int) -> None:
    runner = FakeRunner(LIMITS)
    rate = measure_decode(runner, batch, context=18, steps=5, repeats=2)
    assert rate.best >= rate.median > 0
    assert runner.num_tokens == batch * (18 + 3 * 5)


@pytest.mark.parametrize("value", ["", "0", "-1", "a", "1,,x", "1.5"])
def test_sizes_must_be_positive_numbers(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "--prefill", value]) == 2
    assert "separated by commas" in capsys.readouterr().err

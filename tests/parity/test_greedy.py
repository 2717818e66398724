"""The engine's greedy answers are the recorded ones, to the letter."""

from __future__ import annotations

import pytest
from greedy_answers import PROMPTS, greedy_answers, recorded_answers

from llm_serving.checkpoints import Checkpoint


@pytest.mark.model
def test_greedy_answers_are_as_recorded(real_checkpoint: Checkpoint) -> None:
    expected = recorded_answers()
    assert list(expected) == PROMPTS
    assert greedy_answers(real_checkpoint) == expected


def test_the_record_is_readable() -> None:
    answers = recorded_answers()
    assert len(answers) == 10
    for prompt, answer in answers.items():
        assert len(answer.split()) >= 3, prompt
        assert answer.isprintable() or "\n" in answer, prompt
        assert "\ufffd" not in answer, prompt
        assert "<|" not in answer, prompt
    assert "Shakespeare" in answers["Who wrote Romeo and Juliet?"]
    assert "[::-1]" in answers["Write a Python function that reverses a string."]

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

from llm_serving.backends.fake import (
    EOS_ID,
    FIRST_SPECIAL,
    NUM_BYTES,
    REPLIES,
    VOCAB_SIZE,
    FakeRunner,
    FakeTokenizer,
    fake_limits,
)
from llm_serving.engine.protocol import EngineOptions, RunnerLimits, Step

LIMITS = RunnerLimits(VOCAB_SIZE, 4, 8, 16, 2, 32)


def first_step(token_ids: list[int], block_table: list[int] | None = None) -> Step:
    table = list(range(-(-len(token_ids) // 4))) if block_table is None else block_table
    return Step(
        token_ids=np.array(token_ids, np.int32),
        positions=np.arange(len(token_ids), dtype=np.int32),
        query_starts=np.array([0, len(token_ids)], np.int32),
        block_tables=np.array([table], np.int32),
        logit_rows=np.array([len(token_ids) - 1], np.int32),
    )


def next_token(runner: FakeRunner, token_ids: list[int]) -> int:
    return int(runner.run(first_step(token_ids))[0].argmax())


def test_says_its_reply_and_ends():
    runner = FakeRunner(LIMITS, reply="Hé!")
    said = [1, 2]
    while said[-1] != EOS_ID:
        said.append(next_token(runner, said))
    assert FakeTokenizer().decode(said[2:]) == "Hé!"


def test_the_reply_can_be_empty():
    assert next_token(FakeRunner(LIMITS, reply=""), [1]) == EOS_ID


def test_the_default_reply_depends_on_the_prompt_only():
    runner = FakeRunner(LIMITS)
    firsts = {next_token(runner, [prompt]) for prompt in range(40)}
    assert firsts == {NUM_BYTES + reply.encode()[0] for reply in REPLIES}
    chosen = next(reply for reply in REPLIES if NUM_BYTES + reply.encode()[0] == next_token(runner, [7]))
    assert next_token(runner, [7, next_token(runner, [7])]) == NUM_BYTES + chosen.encode()[1]


def test_a_second_turn_is_a_new_prompt():
    """What the model said comes back as plain bytes, so the reply starts from its beginning."""
    runner = FakeRunner(LIMITS, reply="ab")
    assert next_token(runner, [*b"hi", *b"ab", *b"more"]) == NUM_BYTES + ord("a")


def test_it_never_says_what_a_prompt_is_made_of():
    runner = FakeRunner(LIMITS, random=True)
    logits = runner.run(first_step([1, 2, 3]))[0].copy()
    assert logits[:NUM_BYTES].max() < -8
    assert np.delete(logits[FIRST_SPECIAL:], EOS_ID - FIRST_SPECIAL).max() < -8
    assert logits[NUM_BYTES:FIRST_SPECIAL].min() >= 0
    assert logits[NUM_BYTES:FIRST_SPECIAL].std() > 1


def test_scripted_end_failure_and_slowness():
    assert next_token(FakeRunner(LIMITS, always_eos=True), [1]) == EOS_ID
    failing = FakeRunner(LIMITS, fail_at_step=1)
    next_token(failing, [1])
    with pytest.raises(RuntimeError, match="step 1"):
        next_token(failing, [1])
    started = time.monotonic()
    next_token(FakeRunner(LIMITS, step_seconds=0.02), [1])
    assert time.monotonic() - started >= 0.02
    passed: list[int] = []
    next_token(FakeRunner(LIMITS, before_step=lambda: passed.append(1)), [1])
    assert passed == [1]
    closed = FakeRunner(LIMITS)
    closed.close()
    with pytest.raises(RuntimeError, match="closed"):
        next_token(closed, [1])


BROKEN_STEPS = {
    "no tokens": first_step([]),
    "too many tokens": first_step([1] * 17),
    "no block for a position": first_step([1] * 9, [0, 1, -1]),
    "a block that does not exist": first_step([1] * 9, [0, 1, 8]),
    "too short a table": first_step([1] * 5, [0]),
    "an id outside the vocabulary": first_step([VOCAB_SIZE]),
    "wrong type": replace(first_step([1]), token_ids=np.array([1], np.int64)),
    "starts that do not cover": replace(first_step([1, 2]), query_starts=np.array([0, 1], np.int32)),
    "a sequence without tokens": replace(
        first_step([1]), query_starts=np.array([0, 0, 1], np.int32), block_tables=np.zeros((2, 1), np.int32)
    ),
    "earlier positions never written": replace(first_step([1]), positions=np.array([3], np.int32)),
    "beyond the context": replace(first_step([1], list(range(8)) + [0]), positions=np.array([32], np.int32)),
}


@pytest.mark.parametrize("step", BROKEN_STEPS.values(), ids=BROKEN_STEPS)
def test_a_broken_step_is_an_error(step: Step):
    with pytest.raises((RuntimeError, IndexError)):
        FakeRunner(LIMITS).run(step)


def test_another_sequences_block_changes_the_logits():
    runner = FakeRunner(LIMITS, random=True)
    runner.run(first_step([1, 2, 3, 4, 5], [0, 1]))
    runner.run(first_step([6, 7, 8, 9], [2]))

    def fifth(table: list[int]) -> bytes:
        step = replace(first_step([5], table), positions=np.array([4], np.int32))
        return runner.run(step)[0].tobytes()

    assert fifth([0, 1]) != fifth([2, 1])


def test_tokenizer_round_trips_any_text():
    tokenizer = FakeTokenizer()
    for text in ("", "plain", "😀 é\x00\n", "<|im_end|> is text here"):
        ids = tokenizer.encode(text)
        assert max(ids, default=0) < NUM_BYTES
        assert tokenizer.decode(ids) == text
        assert b"".join(tokenizer.token_bytes[i] for i in ids).decode() == text
    assert tokenizer.decode(tokenizer.encode("\ud800")) == "?"


def test_special_tokens_are_recognised_in_templates_only():
    tokenizer = FakeTokenizer()
    ids = tokenizer.encode_prompt("<|im_start|>user\nhi<|im_end|>")
    assert ids == [tokenizer.bos_id, FIRST_SPECIAL + 2, *b"user\nhi", FIRST_SPECIAL + 3]
    assert tokenizer.encode_prompt("<|bos|>a") == tokenizer.encode_prompt("a") == [tokenizer.bos_id, ord("a")]
    assert tokenizer.encode_prompt("a", add_bos=False) == [ord("a")]
    hostile = "x<|im_end|>y<|eos|>\ufdd0"
    guarded = tokenizer.encode_prompt(tokenizer.guard(hostile), add_bos=False)
    assert guarded == tokenizer.encode(hostile)


def test_tokenizer_shows_special_tokens_on_request():
    tokenizer = FakeTokenizer()
    assert tokenizer.decode([ord("a"), EOS_ID]) == "a"
    assert tokenizer.decode([ord("a"), EOS_ID], skip_special=False) == "a<|eos|>"
    assert EOS_ID in tokenizer.eos_ids <= tokenizer.special_ids
    assert len(tokenizer.token_bytes) == tokenizer.vocab_size == VOCAB_SIZE
    with pytest.raises(IndexError):
        tokenizer.decode([-1])


def test_limits_follow_the_options():
    limits = fake_limits(EngineOptions(context_length=100, max_concurrency=3))
    assert (limits.max_context, limits.max_sequences) == (100, 3)
    assert limits.num_blocks * limits.block_size >= 100

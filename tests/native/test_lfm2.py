"""LFM2: states of short convolutions; how a text is cut, and with whom it is computed, does not matter."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runner_driver import DrivenSequence, RunnerDriver
from tiny_lfm2 import write_lfm2_directory, write_tiny_lfm2
from tiny_models import SMALLEST_VOCAB

from llm_serving.architectures import describe
from llm_serving.backends.native_backend import build_runner, memory_need
from llm_serving.checkpoints import Checkpoint, open_checkpoint
from llm_serving.engine.protocol import EngineOptions, Step
from llm_serving.errors import CheckpointError
from llm_serving.native import ops
from llm_serving.native.core import load_core
from llm_serving.native.runner import state_bytes

IDS = np.random.default_rng(1).integers(0, SMALLEST_VOCAB, 200).tolist()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint(write_tiny_lfm2(tmp_path_factory.mktemp("model") / "m.gguf", kind="Q4_0"))


@pytest.mark.parametrize("quantization", ["auto", "q8", "f32"])
@pytest.mark.parametrize("shape", [{}, {"taps": 4, "tied": False}, {"taps": 2, "attending": (0,)}], ids=str)
def test_a_directory_gives_the_bits_of_a_file(
    tmp_path: Path, make_driver, shape: dict[str, Any], quantization: str
) -> None:
    path = write_tiny_lfm2(tmp_path / "m.gguf", kind="F32", **shape)
    directory = write_lfm2_directory(tmp_path / "d", path)
    ours, expected = (
        make_driver(open_checkpoint(each), quantization=quantization).logits(IDS[:40])
        for each in (directory, path)
    )
    np.testing.assert_array_equal(ours, expected)
    assert np.ptp(expected) > 5


def test_older_directories_number_their_attention(tmp_path: Path) -> None:
    path = write_tiny_lfm2(tmp_path / "m.gguf", kind="F32")
    newer = describe(open_checkpoint(write_lfm2_directory(tmp_path / "new", path)))
    config = {"layer_types": None, "full_attn_idxs": [2, 4]}
    assert describe(open_checkpoint(write_lfm2_directory(tmp_path / "old", path, **config))) == newer


@pytest.mark.parametrize("isa", load_core().instruction_sets())
def test_cuts_threads_and_kernels_do_not_matter(checkpoint: Checkpoint, make_driver, isa: str) -> None:
    expected = make_driver(checkpoint).logits(IDS)
    for chunk, threads in ((1, 1), (7, 3), (16, 2), (100, 4)):
        driver = make_driver(checkpoint, isa=isa, threads=threads, seed=chunk)
        np.testing.assert_array_equal(driver.logits(IDS, chunk=chunk), expected)


def test_company_does_not_matter(checkpoint: Checkpoint, make_driver) -> None:
    driver, alone = make_driver(checkpoint, threads=2), make_driver(checkpoint)
    texts = [IDS[i : i + 60] for i in range(4)]
    fed, rows = [DrivenSequence() for _ in texts], [[] for _ in texts]
    for begin in range(0, 60, 12):
        work = [(each, text[begin : begin + 12]) for each, text in zip(fed, texts, strict=True)]
        for own, logits in zip(rows, np.split(driver.step(work), 4), strict=True):
            own.append(logits)
    for own, text in zip(rows, texts, strict=True):
        np.testing.assert_array_equal(np.concatenate(own), alone.logits(text))


def run(driver: RunnerDriver, segments: list[tuple[int, int, int]], positions: range) -> np.ndarray:
    """One sequence in blocks of its own, tokens by position, with these segments."""
    logits = driver.runner.run(
        Step(
            token_ids=np.array([IDS[i] for i in positions], np.int32),
            positions=np.array(positions, np.int32),
            query_starts=np.array([0, len(positions)], np.int32),
            block_tables=np.arange(4, dtype=np.int32)[None],
            logit_rows=np.arange(len(positions), dtype=np.int32),
            state_segments=np.array(segments, np.int32),
        )
    )
    return logits.copy()


def test_a_state_left_behind_can_be_gone_on_from_twice(checkpoint: Checkpoint, make_driver) -> None:
    driver = make_driver(checkpoint)
    whole = run(driver, [(40, -1, 0)], range(40))
    cut = run(driver, [(16, -1, 5), (32, 5, 6), (40, 6, 0)], range(40))
    np.testing.assert_array_equal(cut, whole)
    for slot, begin in ((5, 16), (6, 32), (5, 16)):
        again = run(driver, [(40 - begin, slot, 1)], range(begin, 40))
        np.testing.assert_array_equal(again, whole[begin:])
    wrong = run(driver, [(8, 5, 1)], range(32, 40))
    assert np.abs(wrong[0] - whole[32]).max() > 0.1


@pytest.mark.parametrize(
    ("segments", "message"),
    [
        ([(8, -1, 0)], "reach to the step's last token"),
        ([(12, -1, 0)], "stretches of one sequence"),
        ([(10, -1, 16)], "out of range"),
        ([(10, 16, 0)], "out of range"),
        ([(10, 0, 0)], "from zeros at position 0"),
        ([(4, -1, 1), (10, -1, 0)], "from zeros at position 0"),
        ([(4, -1, 1), (4, 1, 0), (10, 0, 0)], "stretches of one sequence"),
    ],
)
def test_segments_that_make_no_sense(
    checkpoint: Checkpoint, make_driver, segments: list[tuple[int, int, int]], message: str
) -> None:
    driver = make_driver(checkpoint)
    assert driver.runner.limits.num_states == 16
    with pytest.raises(ValueError, match=message):
        run(driver, segments, range(10))


def test_what_one_writes_no_other_touches(checkpoint: Checkpoint, make_driver) -> None:
    driver = make_driver(checkpoint)

    def two(segments: list[tuple[int, int, int]]) -> None:
        driver.runner.run(
            Step(
                token_ids=np.array([1, 2], np.int32),
                positions=np.array([0, 5], np.int32),
                query_starts=np.array([0, 1, 2], np.int32),
                block_tables=np.array([[0], [1]], np.int32),
                logit_rows=np.zeros(0, np.int32),
                state_segments=np.array(segments, np.int32),
            )
        )

    two([(1, -1, 0), (2, 3, 1)])
    with pytest.raises(ValueError, match="two sequences write to one state"):
        two([(1, -1, 0), (2, 3, 0)])
    with pytest.raises(ValueError, match="read while another sequence writes it"):
        two([(1, -1, 3), (2, 3, 1)])


def test_only_attention_takes_blocks(checkpoint: Checkpoint) -> None:
    plan = describe(checkpoint)
    assert (len(plan.kv), plan.state_floats) == (2, 3 * 2 * 64)
    assert [o.layer for o in plan.operations if isinstance(o, ops.Attention)] == [0, 1]
    runner = build_runner(checkpoint, EngineOptions())
    assert runner._core.state_floats == plan.state_floats
    assert not runner.limits.takes_drafts
    runner.close()


def test_states_are_counted_in_the_memory(checkpoint: Checkpoint) -> None:
    options = EngineOptions(max_concurrency=8, context_length=256)
    need, a_state = memory_need(checkpoint, options), state_bytes(describe(checkpoint))
    for kv, states in ((need.least_kv, 2), (need.conversation_kv, 16), (need.most_kv, 16)):
        runner = build_runner(checkpoint, dataclasses.replace(options, memory_bytes=need.weights + kv))
        taken = runner.limits.num_states * a_state + runner.limits.num_blocks * runner.block_bytes
        assert (runner.limits.num_states, runner.limits.max_context, taken <= kv) == (states, 256, True)
        runner.close()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"conv_bias": True}, "'conv_bias'"),
        ({"conv_L_cache": 1}, "see 1 tokens"),
        ({"conv_L_cache": 9}, "see 9 tokens"),
        ({"conv_L_cache": 4}, "64 channels of 4"),
        ({"layer_types": ["conv"] * 5}, "layers \\[\\] of 5"),
        ({"layer_types": ["full_attention"] * 5}, "some with it and some without"),
        ({"layer_types": ["conv", "full_attention"]}, "no list of 5"),
        ({"layer_types": ["conv", "sliding_attention"] * 2 + ["conv"]}, "no list of 5"),
        ({"layer_types": [["conv"]] * 5}, "no list of 5"),
        ({"layer_types": None, "full_attn_idxs": [7]}, "no list of 5"),
        ({"hidden_act": "gelu"}, "'hidden_act'"),
    ],
)
def test_what_is_not_computed_is_refused(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    directory = write_lfm2_directory(
        tmp_path / "d", write_tiny_lfm2(tmp_path / "m.gguf", kind="F32"), **config
    )
    with pytest.raises(CheckpointError, match=message):
        build_runner(open_checkpoint(directory), EngineOptions())


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("attention.head_count_kv", 2, "5 times 0 or one number"),
        ("attention.head_count_kv", np.array([0, 2, 4, 0, 0]), "5 times 0 or one number"),
        ("attention.head_count_kv", np.array([0, -1, -1, 0, 0]), "5 times 0 or one number"),
        ("attention.head_count_kv", np.zeros(5, np.int32), "5 times 0 or one number"),
        ("attention.head_count_kv", np.array([0.0, 2.0, 0.0, 0.0, 0.0]), "5 times 0 or one number"),
        ("shortconv.l_cache", None, "positive integer"),
        ("attention.sliding_window", 64, "not supported"),
    ],
)
def test_hostile_headers(checkpoint: Checkpoint, key: str, value: object, message: str) -> None:
    changed = dataclasses.replace(checkpoint, metadata={**checkpoint.metadata, f"lfm2.{key}": value})
    with pytest.raises(CheckpointError, match=message):
        describe(changed)

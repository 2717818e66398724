"""Qwen3-VL and Qwen3.5: positions that are stretched, frequencies in turn, and what layers are given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runner_driver import DrivenSequence, RunnerDriver
from test_qwen_vl import GIVEN, IDS, PLACES, TURNED, WIDE, describe_both
from tiny_qwen3_5_vl import VISION_3_5, write_tiny_qwen3_5, write_tiny_qwen3_5_moe
from tiny_qwen_vl import HIDDEN, LAYERS, VISION_3, write_tiny_qwen3_vl, write_tiny_qwen3_vl_moe

from llm_serving.architectures import describe
from llm_serving.backends.native_backend import build_runner
from llm_serving.checkpoints import open_checkpoint
from llm_serving.engine.protocol import EngineOptions
from llm_serving.errors import CheckpointError
from llm_serving.native.any_size_vision import stretched


def test_height_and_width_are_interleaved_with_time(tmp_path: Path) -> None:
    plan = describe(open_checkpoint(write_tiny_qwen3_vl(tmp_path)))
    assert plan.rope.axes == (0, 1, 2, 0, 1, 2, 0, 0)
    assert plan.given_width == 3 * HIDDEN


@pytest.mark.parametrize("write", [write_tiny_qwen3_5, write_tiny_qwen3_5_moe])
def test_some_frequencies_turn_and_no_layer_is_given_more(write: Any, tmp_path: Path) -> None:
    plan = describe(open_checkpoint(write(tmp_path)))
    assert plan.rope.rotated == 16
    assert plan.rope.axes == (0, 1, 2, 0, 1, 2, 0, 1)
    assert plan.given_width == HIDDEN


@pytest.mark.parametrize("write", [write_tiny_qwen3_vl, write_tiny_qwen3_vl_moe])
def test_what_is_given_for_further_layers_is_added_there(write: Any, tmp_path: Path) -> None:
    """To the rows of pictures alone; texts behind them notice what they can still look at."""
    runner = build_runner(open_checkpoint(write(tmp_path)), EngineOptions(threads=2))
    driver, found = RunnerDriver(runner), []
    for layers in ((), (1,), (2,), (1, 2)):
        given = WIDE.copy()
        for layer in {1, 2} - set(layers):
            given[:, layer * HIDDEN : (layer + 1) * HIDDEN] = 0
        found.append(driver.step([(DrivenSequence(), IDS)], given=(given, PLACES), rotary=TURNED))
    for i, one in enumerate(found):
        assert (one[:5] == found[0][:5]).all()
        assert all((one[PLACES] != other[PLACES]).any(axis=1).all() for other in found[:i])
    assert (found[1][5:] != found[0][5:]).any(axis=1).all()
    texts = np.setdiff1d(np.arange(len(IDS)), PLACES)
    assert (found[2][texts] == found[0][texts]).all(), "there is no layer behind the second"
    with pytest.raises(ValueError, match="another width"):
        driver.step([(DrivenSequence(), IDS)], given=(GIVEN, PLACES), rotary=TURNED)
    runner.close()


def test_positions_are_stretched() -> None:
    table = np.arange(9, dtype=np.float32).reshape(3, 3, 1)
    assert (stretched(table, 3, 3) == table).all()
    wide = stretched(table, 5, 2)[:, :, 0]
    assert wide.tolist() == [[0, 2], [1.5, 3.5], [3, 5], [4.5, 6.5], [6, 8]]
    assert stretched(table, 1, 1).tolist() == [[[0]]]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"vision_config": {**VISION_3, "deepstack_visual_indexes": [1, 0]}}, "in order"),
        ({"vision_config": {**VISION_3, "deepstack_visual_indexes": [3]}}, "in order"),
        ({"vision_config": {**VISION_3, "deepstack_visual_indexes": [0, 1, 2]}}, f"{LAYERS} layers for 3"),
        ({"vision_config": {**VISION_3, "hidden_act": "silu"}}, "'hidden_act'"),
        ({"vision_config": {**VISION_3, "hidden_size": 64}}, "no positions .* of 64 dimensions"),
        ({"text_config": {"model_type": "qwen3_vl_moe_text"}}, "the engine runs 'qwen3_vl_text' there"),
    ],
)
def test_what_does_not_fit_qwen3_is_refused(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    model = open_checkpoint(write_tiny_qwen3_vl(tmp_path, **config))
    with pytest.raises(CheckpointError, match=message):
        describe_both(model)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"vision_config": {**VISION_3_5, "deepstack_visual_indexes": [0]}}, "'deepstack_visual_indexes'"),
        ({"vision_config": {**VISION_3_5, "patch_size": 5}}, "patches of 5 pixels"),
        ({"vision_config": {**VISION_3_5, "num_heads": 3}}, "a shape the engine does not run"),
    ],
)
def test_what_does_not_fit_qwen3_5_is_refused(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    model = open_checkpoint(write_tiny_qwen3_5(tmp_path, **config))
    with pytest.raises(CheckpointError, match=message):
        describe_both(model)

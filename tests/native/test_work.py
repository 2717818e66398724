"""The work of a model's matrices, counted by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_gemma4 import write_tiny_gemma4
from tiny_models import SMALLEST_VOCAB, write_tiny_llama, write_tiny_qwen3_moe

from llm_serving.backends.native_backend import build_runner
from llm_serving.checkpoints import open_checkpoint
from llm_serving.engine.protocol import EngineOptions


@pytest.mark.parametrize("tied", [True, False])
def test_matrix_work(tmp_path: Path, tied: bool) -> None:
    path = write_tiny_llama(
        tmp_path / "tiny.gguf", layers=3, hidden=64, heads=4, kv_heads=2, ffn=96, tied=tied
    )
    runner = build_runner(open_checkpoint(path), EngineOptions(threads=1, max_concurrency=2))
    work = runner.work
    runner.close()
    layer = 2 * 64 * 64 + 2 * 32 * 64 + 3 * 96 * 64  # q and o; k and v; gate, up and down
    head = SMALLEST_VOCAB * 64
    assert (work.token_operations, work.row_operations) == (2 * 3 * layer, 2 * head)
    assert work.operations(tokens=5, rows=2) == 2 * (5 * 3 * layer + 2 * head)
    embedding = runner.weight_bytes - work.step_bytes
    if tied:
        assert embedding == 0
    else:
        assert 0.8 < embedding / (runner.weight_bytes / (3 * layer + 2 * head) * head) < 1.2


def test_layers_that_keep_no_keys_are_work_for_rows_only(tmp_path: Path) -> None:
    plans = []
    for shared in (0, 3):
        path = write_tiny_gemma4(tmp_path / f"{shared}.gguf", layers=6, shared=shared)
        runner = build_runner(open_checkpoint(path), EngineOptions(threads=1, max_concurrency=2))
        plans.append(runner.work)
        runner.close()
    assert 0.4 < plans[1].token_operations / plans[0].token_operations < 0.6
    assert plans[1].row_operations > 2 * SMALLEST_VOCAB * 64 + plans[0].token_operations / 3


def test_a_token_is_work_for_the_experts_it_uses(tmp_path: Path) -> None:
    path = write_tiny_qwen3_moe(tmp_path / "tiny.gguf", layers=2, hidden=64, ffn=96, experts=8, used=3)
    runner = build_runner(open_checkpoint(path), EngineOptions(threads=1, max_concurrency=2))
    work = runner.work
    runner.close()
    expert = 3 * 96 * 64
    layer = 2 * 64 * 64 + 2 * 32 * 64 + 8 * 64 + 3 * expert  # attention, router, experts
    assert work.token_operations == 2 * 2 * layer
    unused = runner.weight_bytes - work.step_bytes
    assert 0.9 < unused / (2 * 5 * expert * 5 / 8) < 1.2  # 4 bits and a scale and a minimum for 32

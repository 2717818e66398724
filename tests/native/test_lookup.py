"""Rows of a table that stays in its file: added as the file has them, whatever kind of blocks it is in."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_weights import random_matrix

from llm_serving.checkpoints import Tensor, dequantize
from llm_serving.native.core import load_core

core = load_core()
ROWS, COLS = 24, 256
KINDS = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q8_0", "IQ4_NL", "IQ4_XS"]
KINDS += ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ2_XS", "IQ3_S"]


def table(kind: str, seed: int = 0) -> np.ndarray:
    values = random_matrix(np.random.default_rng(seed), ROWS, COLS, 1.0, kind)
    return np.ascontiguousarray(values).view(np.uint8).reshape(-1)


def plan_of(kind: str, data: np.ndarray, isa: str = "auto", rows: int = ROWS, beyond: int = -1):
    plan = core.Plan(2, isa, 64, 64)
    words = random_matrix(np.random.default_rng(1), ROWS, COLS, 1.0, "F32")
    matrix = plan.pack("F32", words.view(np.uint8).reshape(-1), ROWS, COLS, "f32", None)
    x = plan.buffer(COLS)
    plan.embed(matrix, x)
    plan.add_rows(kind, data, rows, x, 0.5, beyond)
    return plan, x, words


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_added_as_the_file_has_them(kind: str) -> None:
    data = table(kind)
    tensor = Tensor("t", kind, (ROWS, COLS), data)
    expected, own = dequantize(tensor), tensor.as_rows()
    ids = np.random.default_rng(2).integers(0, ROWS, 13).astype(np.int32)
    for isa in core.instruction_sets():
        plan, x, words = plan_of(own.kind, own.data, isa)
        starts, tables = np.array([0, 13], np.int32), np.zeros((1, 0), np.int32)
        positions = np.arange(13, dtype=np.int32)
        ours = plan.run(ids, positions, starts, tables, np.zeros(0, np.int32), x)
        np.testing.assert_allclose(ours, words[ids] + 0.5 * expected[ids], rtol=1e-6, atol=1e-6)


def test_ids_behind_the_end_of_a_table_share_a_row() -> None:
    rows = ROWS - 4
    data = table("Q8_0")[: table("Q8_0").size // ROWS * rows]
    expected = dequantize(Tensor("t", "Q8_0", (rows, COLS), data))
    ids = np.array([0, rows - 1, rows, ROWS - 1], np.int32)
    plan, x, words = plan_of("Q8_0", data, rows=rows, beyond=3)
    starts, tables = np.array([0, 4], np.int32), np.zeros((1, 0), np.int32)
    ours = plan.run(ids, np.arange(4, dtype=np.int32), starts, tables, np.zeros(0, np.int32), x)
    np.testing.assert_allclose(ours, words[ids] + 0.5 * expected[[0, rows - 1, 3, 3]], rtol=1e-6, atol=1e-6)


def test_a_table_that_does_not_fit_is_refused() -> None:
    data = table("Q8_0")
    with pytest.raises(ValueError, match="size does not match"):
        plan_of("Q8_0", data, rows=ROWS - 1)
    with pytest.raises(ValueError, match="size does not match"):
        plan_of("Q4_0", data)
    with pytest.raises(ValueError, match="fewer rows than the vocabulary"):
        plan_of("Q8_0", data[: data.size // ROWS * (ROWS - 1)], rows=ROWS - 1)
    with pytest.raises(ValueError, match="no row for ids behind its end"):
        plan_of("Q8_0", data, beyond=ROWS)
    with pytest.raises(ValueError, match="cannot be packed"):
        plan_of("I8", data)

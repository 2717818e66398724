"""NF4 and NVFP4 stay four bits: packed as bytes of a table, multiplied alike by every instruction set."""

from __future__ import annotations

import numpy as np
import pytest
from test_own_bits import COLS, NAMES, Product, core, embedded, inputs_of

from llm_serving.checkpoints import Tensor, dequantize
from llm_serving.checkpoints.code_tables import E2M1
from llm_serving.checkpoints.kinds import KINDS

FORMATS = {"NF4": "nf4", "E2M1_16": "nvfp4"}
NUMBERS = np.array([-124, -86, -65, -49, -35, -23, -11, 0, 10, 20, 31, 42, 55, 70, 90, 124], np.float32)


def every_code(kind: str, rows: int = 64) -> np.ndarray:
    """Blocks of any bits under scales of any size, uint8 [rows, bytes]."""
    bits = np.random.default_rng(5)
    block = KINDS[kind]
    blocks = bits.integers(0, 256, (rows * COLS // 32, block.block_bytes), np.uint8)
    count = (block.block_bytes - 16) // 4
    scales = bits.uniform(-4, 4, (len(blocks), count)).astype(np.float32)
    scales[:4] = np.array([0, -0.0, 3e-6, 60000], np.float32)[:, None]
    blocks[:, : 4 * count] = scales.view(np.uint8)
    return blocks.reshape(rows, -1)


def exact_values(kind: str, blocks: np.ndarray) -> np.ndarray:
    return dequantize(Tensor("w", kind, (len(blocks), COLS), blocks.reshape(-1)))


def packed_values(kind: str, blocks: np.ndarray) -> np.ndarray:
    """What the packed format holds: scales in F16 times numbers of its table."""
    whole = blocks.reshape(-1, KINDS[kind].block_bytes)
    scales = np.ascontiguousarray(whole[:, :-16]).view(np.float32)
    codes = np.concatenate([whole[:, -16:] & 15, whole[:, -16:] >> 4], axis=1)
    if kind == "NF4":
        factors, numbers = (scales / np.float32(124.115)).astype(np.float16), NUMBERS[codes]
    else:
        factors, numbers = (scales * np.float32(0.5)).astype(np.float16), 2 * E2M1[codes]
    wide = np.repeat(factors.astype(np.float32), 32 // factors.shape[1], axis=1)
    return (wide * numbers).reshape(len(blocks), COLS)


@pytest.mark.parametrize("isa", NAMES)
@pytest.mark.parametrize("kind", FORMATS)
def test_a_packed_matrix_is_near_its_numbers(kind: str, isa: str) -> None:
    blocks = every_code(kind)
    rows, exact = embedded(kind, blocks, isa), exact_values(kind, blocks)
    assert (rows == packed_values(kind, blocks)).all()
    # Normal weights: half of a step of the table at most, and F16's rounding.
    usual = (np.abs(exact) < 10) & (np.abs(exact) > 0.01)
    away = np.abs(rows - exact)[usual]
    if kind == "NF4":
        assert away.max() < 4 * 0.6 / 124
    else:
        assert (away <= np.abs(exact)[usual] * 2**-10).all()


@pytest.mark.parametrize("kind", FORMATS)
def test_bits_stay_as_many_unless_others_are_asked_for(kind: str) -> None:
    blocks = every_code(kind)
    plan = core.Plan(1, "scalar", 1, 1)
    for wanted in ("auto", "careful", "q4", "q8", "s8"):
        form, panels = plan.panels(plan.pack(kind, blocks.reshape(-1), len(blocks), COLS, wanted, None))
        assert form == (wanted if wanted.endswith("8") else FORMATS[kind])
        a_weight = {"nf4": 4.5, "nvfp4": 5}.get(form, 8.5)
        assert len(panels) == len(blocks) * COLS * a_weight / 8


@pytest.mark.parametrize("kind", FORMATS)
def test_f32_is_what_the_file_says(kind: str) -> None:
    blocks = every_code(kind)
    plan = core.Plan(1, "scalar", 1, 1)
    _, panels = plan.panels(plan.pack(kind, blocks.reshape(-1), len(blocks), COLS, "f32", None))
    rows = panels.view(np.float32).reshape(-1, COLS, 8).transpose(0, 2, 1).reshape(-1, COLS)
    assert (rows == exact_values(kind, blocks)).all()


@pytest.mark.parametrize("tokens", [1, 2, 3, 4, 8, 13])
@pytest.mark.parametrize("kind", FORMATS)
def test_every_instruction_set_computes_the_same(kind: str, tokens: int) -> None:
    blocks = every_code(kind, 33)
    scalar = Product("scalar", inputs_of(tokens)).run(kind, blocks, "auto")[1]
    inputs = inputs_of(tokens).astype(np.float16).astype(np.float64)
    exact = inputs @ packed_values(kind, blocks).astype(np.float64).T
    size = np.abs(inputs) @ np.abs(packed_values(kind, blocks)).T
    assert (np.abs(scalar - exact) <= 0.02 * size).all()
    for isa in NAMES:
        ours = Product(isa, inputs_of(tokens)).run(kind, blocks, "auto")[1]
        assert (ours.view(np.uint32) == scalar.view(np.uint32)).all()

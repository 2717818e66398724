"""DeBERTa against numpy; the same bits whoever computes them, and with whom; what is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_deberta import CONTEXT, hidden_states, write_tiny_deberta
from tiny_encoders import BERT_VOCAB

from llm_serving.backends.native_encoder import load
from llm_serving.checkpoints import dequantize, open_checkpoint
from llm_serving.embeddings.encoder import EncoderInput
from llm_serving.errors import CheckpointError
from llm_serving.native.core import load_core

core = load_core()
LENGTHS = (1, 2, 17, 33, 60, CONTEXT)
TEXTS = [np.random.default_rng(n).integers(5, len(BERT_VOCAB), n).tolist() for n in LENGTHS]
INPUTS = [EncoderInput(ids) for ids in TEXTS]


@pytest.mark.parametrize("kinds", [("c2p", "p2c"), ("c2p",), ("p2c",), ()])
def test_rows_are_numpys(kinds: tuple[str, ...], tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_tiny_deberta(tmp_path / "m", pos_att_type=list(kinds)))
    tensors = {name: dequantize(tensor) for name, tensor in checkpoint.tensors.items()}
    rows = load(checkpoint, "f32", 2).encode(INPUTS)
    for ids, row in zip(TEXTS, rows, strict=True):
        expected = hidden_states(tensors, ids, kinds).mean(0)
        np.testing.assert_allclose(row, expected / np.linalg.norm(expected), atol=3e-6)


def test_classes_are_numpys(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_tiny_deberta(tmp_path / "m", labels=3))
    tensors = {
        name.removeprefix("deberta."): dequantize(tensor) for name, tensor in checkpoint.tensors.items()
    }
    for ids, row in zip(TEXTS, load(checkpoint, "f32", 2).encode(INPUTS), strict=True):
        first = tensors["pooler.dense.weight"] @ hidden_states(tensors, ids)[0] + tensors["pooler.dense.bias"]
        erf = np.array([math.erf(v / 2**0.5) for v in first])
        expected = tensors["classifier.weight"] @ (first * 0.5 * (1 + erf)) + tensors["classifier.bias"]
        np.testing.assert_allclose(row, expected, atol=2e-5)


@pytest.mark.parametrize("precision", ["f32", "q8"])
def test_rows_are_the_same_bits_whoever_computes_them(precision: str, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_tiny_deberta(tmp_path / "m"))
    found = []
    for isa in core.instruction_sets():
        for threads in (1, 3):
            # Bytes of other instruction sets are other numbers: the format is that of the best one.
            encoder = load(checkpoint, precision, threads, isa=isa if precision == "f32" else core.isa())
            together = encoder.encode(INPUTS).tobytes()
            assert together == b"".join(encoder.encode([text]).tobytes() for text in INPUTS)
            found.append(together)
            encoder.close()
    assert set(found) == {found[0]}


def test_pos_att_type_may_be_one_word(tmp_path: Path) -> None:
    listed = open_checkpoint(write_tiny_deberta(tmp_path / "a"))
    joined = open_checkpoint(write_tiny_deberta(tmp_path / "b", pos_att_type="p2c|c2p"))
    assert load(listed, "f32", 1).encode(INPUTS).tobytes() == load(joined, "f32", 1).encode(INPUTS).tobytes()


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"relative_attention": False}, "relative_attention"),
        ({"position_biased_input": True}, "position_biased_input"),
        ({"conv_kernel_size": 3}, "conv_kernel_size"),
        ({"hidden_act": "relu"}, "hidden_act"),
        ({"pos_att_type": ["p2p"]}, "pos_att_type"),
        ({"pos_att_type": 5}, "pos_att_type"),
        ({"pos_att_type": [["c2p"]]}, "pos_att_type"),
        ({"position_buckets": 32}, "64 rows of 64 are needed"),
        ({"position_buckets": "all"}, "256 rows of 64 are needed"),
        ({"position_buckets": 0, "max_relative_positions": 1 << 40}, "are needed"),
        ({"share_att_key": False}, "pos_key_proj"),
        ({"num_attention_heads": 5}, "5 heads"),
    ],
)
def test_what_is_refused(changed: dict[str, Any], text: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=text):
        load(open_checkpoint(write_tiny_deberta(tmp_path / "m", **changed)), "f32", 1)


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"at": [0] * 14}, "each distance"),
        ({"at": [1] * 7 + [0] * 8}, "in their order"),
        ({"at": [0] * 14 + [4]}, "each distance"),
        ({"position_keys": [0, 0, 0]}, "of its own"),
        ({"positions": 5}, "as wide as a head"),
        ({"heads": 3}, "multiple of 8"),
        ({"target": 0}, "as wide as what comes out"),
    ],
)
def test_operations_that_do_not_fit(changed: dict[str, Any], text: str) -> None:
    plan = core.Plan(1, "auto", 8, 8)
    source, target = plan.buffer(96), plan.buffer(32)
    own = [plan.low_rank(np.zeros((4, 16), np.float32)) for _ in range(2)]
    usual = {"position_keys": own, "position_queries": [], "positions": 4, "at": [0] * 7 + [3] * 8}
    arguments = {"source": source, "target": target, "heads": 2, "scale": 1.0, **usual}
    plan.disentangled_attention(**arguments)
    with pytest.raises(ValueError, match=text):
        plan.disentangled_attention(**{**arguments, **changed})

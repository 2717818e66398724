"""A mixture of experts against numpy: directories and GGUF files, in company and alone, on every kernel."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gguf_encoders import write_gguf_encoder
from tiny_encoders import BERT_VOCAB
from tiny_nomic_moe import hidden_states, write_tiny_nomic_moe

from llm_serving.backends.native_encoder import load
from llm_serving.checkpoints import Checkpoint, Tensor, dequantize, open_checkpoint
from llm_serving.embeddings.encoder import EncoderInput
from llm_serving.errors import CheckpointError
from llm_serving.native.core import load_core

TEXTS = [np.random.default_rng(n).integers(5, len(BERT_VOCAB), n).tolist() for n in (1, 2, 17, 40, 62)]
BATCH = [EncoderInput(ids) for ids in TEXTS]


def rows_of(checkpoint: Checkpoint, precision: str = "f32") -> np.ndarray:
    return load(checkpoint, precision, 2).encode(BATCH)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    return open_checkpoint(write_tiny_nomic_moe(tmp_path / "m"))


@pytest.mark.parametrize("bias", [False, True])
def test_rows_are_numpys(bias: bool, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_tiny_nomic_moe(tmp_path / "m", bias=bias))
    tensors = {name: dequantize(tensor) for name, tensor in checkpoint.tensors.items()}
    for ids, row in zip(TEXTS, rows_of(checkpoint), strict=True):
        expected = hidden_states(tensors, ids).mean(0)
        np.testing.assert_allclose(row, expected / np.linalg.norm(expected), atol=2e-6)


def test_rows_of_a_gguf_file_are_the_directorys(tmp_path: Path) -> None:
    """The converter leaves the experts' bias out, as it is zero in the published model."""
    directory = write_tiny_nomic_moe(tmp_path / "m", bias=False)
    checkpoint = open_checkpoint(write_gguf_encoder(tmp_path / "m.gguf", directory))
    assert checkpoint.architecture == "nomic-bert-moe"
    np.testing.assert_allclose(rows_of(checkpoint), rows_of(open_checkpoint(directory)), atol=1e-6)


@pytest.mark.parametrize("kind", ["F16", "Q8_0", "Q4_1"])
def test_other_kinds_of_weights_are_the_values_they_stand_for(kind: str, tmp_path: Path) -> None:
    directory = write_tiny_nomic_moe(tmp_path / "m", bias=False)
    checkpoint = open_checkpoint(write_gguf_encoder(tmp_path / "m.gguf", directory, kind=kind))
    assert checkpoint.tensors["blk.1.ffn_down_exps.weight"].kind == kind
    plain = {
        name: Tensor(name, "F32", tensor.shape, dequantize(tensor).reshape(-1).view(np.uint8))
        for name, tensor in checkpoint.tensors.items()
    }
    assert rows_of(checkpoint).tobytes() == rows_of(replace(checkpoint, tensors=plain)).tobytes()


def test_eight_bits_are_enough(checkpoint: Checkpoint) -> None:
    """The router keeps twelve: another expert would be another row."""
    for exact, row in zip(rows_of(checkpoint), rows_of(checkpoint, "q8"), strict=True):
        assert 0.999 < exact @ row <= 1.0001
        assert exact.tobytes() != row.tobytes()


def test_packed_values_are_not_transposed(checkpoint: Checkpoint) -> None:
    packed = Tensor("w", "Q8_0", (64, 32), np.zeros(64 * 34, np.uint8))
    assert packed.part(1, 2).shape == (32, 32)
    with pytest.raises(CheckpointError, match="'w' of Q8_0 cannot be transposed"):
        packed.part(1, 2, transposed=True)


@pytest.mark.parametrize("precision", ["f32", "q8"])
def test_a_row_depends_on_its_own_text_only(precision: str, checkpoint: Checkpoint) -> None:
    together = rows_of(checkpoint, precision)
    one_thread = load(checkpoint, precision, 1)
    for text, row in zip(BATCH, together, strict=True):
        assert one_thread.encode([text])[0].tobytes() == row.tobytes()


def test_every_instruction_set_gives_the_same_bits(checkpoint: Checkpoint) -> None:
    rows = {
        isa: load(checkpoint, "f32", 2, isa=isa).encode(BATCH).tobytes()
        for isa in load_core().instruction_sets()
    }
    assert len(set(rows.values())) == 1


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"moe_top_k": 6}, "uses 6 of 5 experts"),
        ({"num_experts": 7}, "router.* has 5 rows where there are 7 experts"),
        ({"num_experts": None}, "'num_experts' in .* is None"),
        ({"moe_normalize_expert_weights": True}, "'moe_normalize_expert_weights' in .* supported: False"),
        ({"moe_every_n_layers": 3}, "has no tensor '.*mlp.fc1.weight'"),
    ],
)
def test_what_does_not_fit_is_named(keys: dict[str, object], message: str, checkpoint: Checkpoint) -> None:
    with pytest.raises(CheckpointError, match=message):
        rows_of(replace(checkpoint, metadata={**checkpoint.metadata, **keys}))

"""Where the CPU has tiles, they compute long texts and not short ones, whatever these come with."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_encoders import BERT_VOCAB, write_tiny_bert

from llm_serving.backends.native_encoder import load
from llm_serving.checkpoints import Checkpoint, open_checkpoint
from llm_serving.embeddings.encoder import EncoderInput
from llm_serving.native.core import load_core
from llm_serving.native.encoder import TILE_TOKENS

core = load_core()
pytestmark = pytest.mark.skipif(not core.tile_set(), reason="this CPU has no tiles of bfloat16")
LENGTHS = [TILE_TOKENS, 3, TILE_TOKENS - 1, TILE_TOKENS + 60, 17, TILE_TOKENS + 1]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    path = tmp_path_factory.mktemp("bert")
    return open_checkpoint(write_tiny_bert(path, positions=128, max_tokens=128))


def rows(checkpoint: Checkpoint, isa: str, precision: str = "q8", threads: int = 2) -> list[bytes]:
    random = np.random.default_rng(3)
    texts = [EncoderInput(random.integers(3, len(BERT_VOCAB), length).tolist()) for length in LENGTHS]
    encoder = load(checkpoint, precision, threads, isa=isa)
    together = [row.tobytes() for row in encoder.encode(texts)]
    assert together == [encoder.encode([text])[0].tobytes() for text in texts]
    encoder.close()
    return together


@pytest.mark.parametrize("threads", [1, 3])
def test_the_length_decides(checkpoint: Checkpoint, threads: int) -> None:
    usual, tiles = rows(checkpoint, core.isa()), rows(checkpoint, core.tile_set())
    for length, row, usually, by_tiles in zip(
        LENGTHS, rows(checkpoint, "auto", threads=threads), usual, tiles, strict=True
    ):
        assert usually != by_tiles
        assert row == (by_tiles if length >= TILE_TOKENS else usually)


def test_f32_is_f32(checkpoint: Checkpoint) -> None:
    assert rows(checkpoint, "auto", "f32") == rows(checkpoint, core.isa(), "f32")


def test_other_kernels_are_refused_and_change_nothing(checkpoint: Checkpoint) -> None:
    plan = core.Plan(1, "auto", 16, 16)
    with pytest.raises(ValueError, match="'mmx' is not available here"):
        plan.use("mmx")
    assert plan.isa == core.isa()

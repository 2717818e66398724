"""Llama 4: a token sees its own chunk of the context, the same bits however that is cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runner_driver import DrivenSequence
from tiny_decoder_directories import write_tokenizer
from tiny_encoders import write_json, write_safetensors
from tiny_models import SMALLEST_VOCAB

from llm_serving.architectures import describe
from llm_serving.backends.native_backend import build_runner
from llm_serving.checkpoints import Checkpoint, open_checkpoint
from llm_serving.engine.protocol import EngineOptions
from llm_serving.errors import CheckpointError, ServingError
from llm_serving.native import ops
from llm_serving.native.core import load_core

HIDDEN, LAYERS, HEAD, EXPERTS = 64, 4, 16, 4
LENGTH = 700  # three chunks of 256
# One token a step around the ends of chunks.
SINGLY = [1] * 18 + [230] + [1] * 18 + [229] + [1] * 30 + [160] + [1] * 15
CONFIG: dict[str, Any] = {
    "model_type": "llama4_text",
    "hidden_act": "silu",
    "hidden_size": HIDDEN,
    "intermediate_size": 32,
    "intermediate_size_mlp": 96,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": HEAD,
    "max_position_embeddings": 1024,
    "rms_norm_eps": 1e-5,
    "interleave_moe_layer_step": 2,
    "num_local_experts": EXPERTS,
    "num_experts_per_tok": 1,
    "attention_chunk_size": 256,
    "floor_scale": 128,
    "vocab_size": SMALLEST_VOCAB,
    "tie_word_embeddings": True,
}
DENSE = {"gate_proj": (96, HIDDEN), "up_proj": (96, HIDDEN), "down_proj": (HIDDEN, 96)}
MIXED = {
    "router": (EXPERTS, HIDDEN),
    "experts.gate_up_proj": (EXPERTS, HIDDEN, 64),
    "experts.down_proj": (EXPERTS, 32, HIDDEN),
    "shared_expert.gate_proj": (32, HIDDEN),
    "shared_expert.up_proj": (32, HIDDEN),
    "shared_expert.down_proj": (HIDDEN, 32),
}


def write_llama4(directory: Path, **config: Any) -> Path:
    """A random model; keywords go into its config.json."""
    rng = np.random.default_rng(0)
    tensors: dict[str, np.ndarray] = {}

    def add(name: str, *shape: int) -> None:
        mean = 1.0 if len(shape) == 1 else 0.0
        deviation = 0.2 if len(shape) == 1 else shape[-1] ** -0.5
        tensors[name] = rng.normal(mean, deviation, shape).astype(np.float32)

    add("model.embed_tokens.weight", SMALLEST_VOCAB, HIDDEN)
    tensors["model.embed_tokens.weight"] *= 4
    for i in range(LAYERS):
        own = f"model.layers.{i}."
        for part, rows in (("q", 4 * HEAD), ("k", 2 * HEAD), ("v", 2 * HEAD)):
            add(f"{own}self_attn.{part}_proj.weight", rows, HIDDEN)
        add(f"{own}self_attn.o_proj.weight", HIDDEN, 4 * HEAD)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            add(f"{own}{norm}.weight", HIDDEN)
        for part, shape in (MIXED if i % 2 else DENSE).items():
            add(f"{own}feed_forward.{part}{'.weight' if len(shape) == 2 else ''}", *shape)
    add("model.norm.weight", HIDDEN)
    write_safetensors(directory / "model.safetensors", tensors)
    write_json(directory / "config.json", {**CONFIG, **config})
    write_tokenizer(directory, SMALLEST_VOCAB)
    return directory


def ids(seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, SMALLEST_VOCAB, LENGTH)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    return open_checkpoint(write_llama4(tmp_path / "d"))


def test_chunks_threads_and_instruction_sets(checkpoint: Checkpoint, make_driver) -> None:
    expected = make_driver(checkpoint).logits(ids(), chunk=512)
    singly = make_driver(checkpoint, threads=2, seed=1).in_pieces(ids(), SINGLY)
    np.testing.assert_array_equal(singly, expected)
    for chunk, threads in ((7, 1), (100, 2)):
        ours = make_driver(checkpoint, threads=threads, seed=chunk).logits(ids(), chunk=chunk)
        np.testing.assert_array_equal(ours, expected)
    for isa in load_core().instruction_sets()[1:]:
        np.testing.assert_array_equal(make_driver(checkpoint, isa=isa).logits(ids()), expected)


def test_sequences_side_by_side(checkpoint: Checkpoint, make_driver) -> None:
    driver = make_driver(checkpoint)
    expected, others = driver.logits(ids()), driver.logits(ids(2))
    one, other = DrivenSequence(), DrivenSequence()
    driver.step([(one, ids()[:250]), (other, ids(2)[:100])], rows=[])
    rows = [0, 5, 6, 7, 199, 200, 399]  # of both, on either side of a chunk's end
    logits = driver.step([(one, ids()[250:450]), (other, ids(2)[100:300])], rows=rows)
    np.testing.assert_array_equal(logits[:5], expected[[250, 255, 256, 257, 449]])
    np.testing.assert_array_equal(logits[5:], others[[100, 299]])


def test_a_chunk_ends(tmp_path: Path, make_driver) -> None:
    """With layers of chunks only, what stands in one is nothing to the next."""
    path = write_llama4(tmp_path / "d", no_rope_layers=[1] * LAYERS)
    driver = make_driver(open_checkpoint(path), quantization="f32")
    one, other = ids(), ids()
    other[300] += 1 if other[300] == 0 else -1
    differ = np.flatnonzero((driver.logits(one) != driver.logits(other)).any(axis=1))
    assert (differ.min(), differ.max()) == (300, 511)


def test_layers_that_are_told_no_positions_see_everything(checkpoint: Checkpoint) -> None:
    plan = describe(checkpoint)
    attention = [operation for operation in plan.operations if isinstance(operation, ops.Attention)]
    assert [own.chunk for own in attention] == [256, 256, 256, 0]
    grown = [op for op in plan.operations if isinstance(op, ops.Rotate) and op.rope.growth]
    assert [(own.rope.span, own.rope.first) for own in grown] == [(128, 1)]


def test_a_context_within_a_chunk_has_no_chunks(tmp_path: Path) -> None:
    plan = describe(open_checkpoint(write_llama4(tmp_path / "d", attention_chunk_size=1000 + 24)))
    assert not any(op.chunk for op in plan.operations if isinstance(op, ops.Attention))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"attention_chunk_size": 100}, "attention_chunk_size.*multiple of 256"),
        ({"attention_chunk_size": "8k"}, "attention_chunk_size"),
        ({"attention_bias": True}, "attention_bias"),
        ({"moe_layers": [4]}, "moe_layers"),
        ({"moe_layers": 3}, "moe_layers"),
        ({"moe_layers": [0]}, "no tensor .*feed_forward.router"),
        ({"layer_types": ["sliding_attention"] * 4}, "layer_types"),
        ({"no_rope_layers": [2] * 4}, "no_rope_layers"),
        ({"attn_scale": 7.0}, "grow by 7"),
        ({"intermediate_size_mlp": 33}, "intermediate_size_mlp"),
        ({"num_local_experts": 5}, "there are 5 experts"),
        ({"num_experts_per_tok": 5}, "uses 5 of 4"),
        ({"model_type": "llama4", "text_config": {"model_type": "llama"}}, "model_type"),
    ],
)
def test_what_is_not_computed_is_refused(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        describe(open_checkpoint(write_llama4(tmp_path / "d", **config)))


@pytest.mark.parametrize("value", [(1 << 31) - 1, 1 << 24])
@pytest.mark.parametrize(
    "key",
    [
        "num_hidden_layers",
        "hidden_size",
        "num_attention_heads",
        "head_dim",
        "intermediate_size",
        "intermediate_size_mlp",
        "num_local_experts",
        "interleave_moe_layer_step",
    ],
)
def test_sizes_of_no_model(tmp_path: Path, key: str, value: int) -> None:
    checkpoint = open_checkpoint(write_llama4(tmp_path / "d", **{key: value}))
    with pytest.raises((CheckpointError, ServingError)):
        build_runner(checkpoint, EngineOptions(memory_bytes=1 << 30)).close()

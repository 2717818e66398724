"""Llama 4 against `transformers`: a random model as a directory, as a GGUF file, and behind a chunk's end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="the parity suite needs torch; run it with: make parity")
pytest.importorskip("transformers", reason="the parity suite needs transformers; run it with: make parity")

import transformers
from family_models import SHAPE, assert_agree, our_logits, random_ids, save_model, their_logits
from gguf_twin import Twin, write_twin
from newer_families import LLAMA_3
from newer_twins import shared

from llm_serving.checkpoints import open_checkpoint

pytestmark = pytest.mark.parity

TEXT: dict[str, Any] = {
    **SHAPE,
    "num_hidden_layers": 4,  # the last one is told no positions
    "head_dim": 32,
    "intermediate_size": 64,
    "intermediate_size_mlp": 160,
    "interleave_moe_layer_step": 2,
    "num_local_experts": 6,
    "num_experts_per_tok": 2,
    "pad_token_id": 0,
    "attn_implementation": "eager",
}
SCOUT = {**LLAMA_3, "low_freq_factor": 2.0, "high_freq_factor": 2.0}  # nothing is between
CASES: dict[str, dict[str, Any]] = {
    "plain": {"num_experts_per_tok": 1},
    "growing": {"floor_scale": 16, "attn_scale": 0.3, "rope_parameters": SCOUT},
    "unnormed": {"use_qk_norm": False, "moe_layers": [0, 1, 3], "no_rope_layers": [1, 0, 1, 1]},
}


def halves(name: str, values: np.ndarray, config: Any) -> dict[str, np.ndarray]:
    """Experts as outputs x inputs, and gates and what they open apart."""
    if ".ffn_down_exps." in name:
        return {name: values.swapaxes(1, 2)}
    if ".ffn_gate_up_exps." not in name:
        return {name: values}
    gates, ups = np.split(values.swapaxes(1, 2), 2, axis=1)
    return {name.replace("gate_up", "gate"): gates, name.replace("gate_up", "up"): ups}


TWIN = Twin(
    "llama4",
    parts={
        **{f"feed_forward.{part}_proj": f"ffn_{part}" for part in ("gate", "up", "down")},
        **{name.replace("mlp", "feed_forward"): own for name, own in shared("shared_expert").items()},
        "feed_forward.router": "ffn_gate_inp",
        "feed_forward.experts.gate_up_proj": "ffn_gate_up_exps",
        "feed_forward.experts.down_proj": "ffn_down_exps",
    },
    keys={
        "intermediate_size": "expert_feed_forward_length",
        "intermediate_size_mlp": "feed_forward_length",
        "interleave_moe_layer_step": "interleave_moe_layer_step",
    },
    split=halves,
)


@pytest.mark.parametrize("case", CASES)
def test_logits(case: str, tmp_path: Path) -> None:
    config = transformers.Llama4TextConfig(**{**TEXT, **CASES[case]})
    model = save_model(tmp_path, transformers.Llama4ForCausalLM, config)
    ids = random_ids()
    theirs = their_logits(model, ids)
    directory = open_checkpoint(tmp_path)
    assert_agree(our_logits(directory, ids), theirs)
    if case == "plain":  # files say nothing of the others
        file = open_checkpoint(write_twin(tmp_path / "m.gguf", directory, TWIN))
        assert_agree(our_logits(file, ids), theirs)


def test_chunks_of_attention(tmp_path: Path) -> None:
    """Of a whole model, whose text part has a name of its own, in a context of two chunks."""
    text = {**TEXT, "attention_chunk_size": 256, "max_position_embeddings": 1024, "floor_scale": 128}
    sees = {
        "hidden_size": 32,
        "intermediate_size": 128,  # that of a pixel shuffle
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vision_output_dim": 32,
        "projector_input_dim": 32,
        "projector_output_dim": 32,
        "image_size": 28,
    }
    config = transformers.Llama4Config(
        text_config=text, vision_config=sees, initializer_range=0.2, attn_implementation="eager"
    )
    model = save_model(tmp_path, transformers.Llama4ForConditionalGeneration, config)
    ids = random_ids(500)
    theirs = their_logits(model.language_model, ids)  # which the whole one does not get to without pictures
    assert_agree(our_logits(open_checkpoint(tmp_path), ids), theirs)

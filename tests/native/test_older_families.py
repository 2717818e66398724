"""Older families: the same bits however a text is cut and in what a file holds it, and what is refused.

Numbers are for `make parity`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runner_driver import DrivenSequence
from tiny_decoder_directories import write_directory, write_tokenizer
from tiny_encoders import write_json, write_safetensors
from tiny_models import SMALLEST_VOCAB, write_tiny_llama
from tiny_older import FFN, HEADS, HIDDEN, LAYERS, OLDER, write_tiny_older

from llm_serving.architectures import describe
from llm_serving.checkpoints import Checkpoint, dequantize, open_checkpoint
from llm_serving.errors import CheckpointError
from llm_serving.native.core import load_core

IDS = np.random.default_rng(3).integers(0, SMALLEST_VOCAB, 300)
GPT2 = {
    "token_embd": "wte",
    "position_embd": "wpe",
    "output_norm": "ln_f",
    "blk": "h",
    "attn_norm": "ln_1",
    "attn_qkv": "attn.c_attn",
    "attn_output": "attn.c_proj",
    "ffn_norm": "ln_2",
    "ffn_up": "mlp.c_fc",
    "ffn_down": "mlp.c_proj",
}


@pytest.mark.parametrize("family", OLDER)
def test_chunks_company_and_instruction_sets(tmp_path: Path, make_driver, family: str) -> None:
    checkpoint = open_checkpoint(write_tiny_older(tmp_path / "m.gguf", family, kind="Q8_0"))
    driver = make_driver(checkpoint)
    expected = driver.logits(IDS)
    assert np.ptp(expected) > 5
    singly = make_driver(checkpoint, threads=2, seed=1).in_pieces(IDS, [240, *[1] * 30, 30])
    np.testing.assert_array_equal(singly, expected)
    one, other = DrivenSequence(), DrivenSequence()
    driver.step([(one, IDS[:7]), (other, IDS[50:90])])
    both = driver.step([(other, IDS[90:95]), (one, IDS[7:40])])
    np.testing.assert_array_equal(both[5:], expected[7:40])
    for isa in load_core().instruction_sets()[1:]:
        np.testing.assert_array_equal(make_driver(checkpoint, isa=isa).logits(IDS, chunk=100), expected)


@pytest.mark.parametrize("quantization", ["auto", "f32"])
def test_gpt2_has_matrices_the_other_way_round(tmp_path: Path, make_driver, quantization: str) -> None:
    """In directories; they may be saved without a head, whose prefix names then lack."""
    gguf = open_checkpoint(write_tiny_older(tmp_path / "m.gguf", "gpt2"))
    directory = gpt2_directory(tmp_path / "d", gguf)
    ours, expected = (make_driver(each, quantization=quantization).logits(IDS) for each in (directory, gguf))
    np.testing.assert_array_equal(ours, expected)


def gpt2_directory(path: Path, gguf: Checkpoint, **config: Any) -> Checkpoint:
    tensors = {}
    for name, tensor in gguf.tensors.items():
        values = dequantize(tensor)
        is_matrix = name.startswith("blk.") and values.ndim == 2
        for old, new in GPT2.items():
            name = name.replace(old, new)
        tensors[name] = np.ascontiguousarray(values.T if is_matrix else values)
    write_safetensors(path / "model.safetensors", tensors)
    sizes = {"n_embd": HIDDEN, "n_layer": LAYERS, "n_head": HEADS, "n_inner": FFN, "n_positions": 1024}
    write_json(path / "config.json", {"model_type": "gpt2", **sizes, **config})
    write_tokenizer(path, SMALLEST_VOCAB)
    return open_checkpoint(path)


def test_no_text_is_longer_than_positions_are(tmp_path: Path, make_driver) -> None:
    checkpoint = open_checkpoint(write_tiny_older(tmp_path / "m.gguf", "gpt2", context=64))
    whole, part = make_driver(checkpoint), make_driver(checkpoint, context_length=40)
    assert (whole.runner.limits.max_context, part.runner.limits.max_context) == (64, 40)
    np.testing.assert_array_equal(whole.logits(IDS[:64])[:40], part.logits(IDS[:40]))
    more = replace(checkpoint, metadata={**checkpoint.metadata, "gpt2.context_length": 65})
    with pytest.raises(CheckpointError, match="64 positions where 65 are needed"):
        make_driver(more)


@pytest.mark.parametrize(
    ("family", "config", "message"),
    [
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "'scale_attn_by_inverse_layer_idx'"),
        ("gpt2", {"scale_attn_weights": False}, "'scale_attn_weights'"),
        ("gpt2", {"activation_function": "tanh"}, "'hidden_act' .* supported: gelu_new"),
        ("gpt2", {"n_embd": "96"}, "'hidden_size' .* positive integer"),
        ("gpt2", {"n_layer": 1 << 30}, "'num_hidden_layers' .* tensors"),
        ("gpt2", {"n_head": 16}, "a shape the engine does not run"),
        ("gpt_bigcode", {"add_cross_attention": True}, "'add_cross_attention'"),
        ("gptj", {"rotary_dim": 34}, "'rotary_dim' .* even number up to 32"),
        ("codegen", {"rotary_dim": 32}, "3 heads .* 4 equal parts"),
        ("gpt_neo", {"attention_types": [[["global", "sparse"], 1]]}, "'attention_types'"),
        ("gpt_neo", {"attention_types": [[["global"], 10**9]]}, "'attention_types'"),
    ],
)
def test_what_is_not_run_is_named(tmp_path: Path, family: str, config: dict[str, Any], message: str) -> None:
    gguf = open_checkpoint(write_tiny_older(tmp_path / "m.gguf", "gpt2"))
    with pytest.raises(CheckpointError, match=message):
        describe(gpt2_directory(tmp_path / "d", gguf, model_type=family, **config))


@pytest.mark.parametrize(
    ("family", "config", "message"),
    [
        ("bloom", {"apply_residual_connection_post_layernorm": True}, "post_layernorm"),
        ("bloom", {}, "no tensor 'word_embeddings.weight'"),
        ("falcon", {"hidden_act": "gelu"}, "no tensor 'word_embeddings.weight'"),
        ("glm", {"attention_bias": 1.5}, "'attention_bias'"),
        ("mpt", {"no_bias": False}, "'no_bias'"),
        ("mpt", {"attn_config": {"alibi": False}}, "'alibi' .* supported: True"),
        ("mpt", {"attn_config": {"softmax_scale": 1e9}}, "scaled by 1e.09"),
        ("mpt", {"attn_config": [8]}, "'attn_config' .* no object"),
        ("opt", {"do_layer_norm_before": False}, "'do_layer_norm_before'"),
        ("opt", {"word_embed_proj_dim": 32, "hidden_act": "relu"}, "'word_embed_proj_dim' .* supported: 64"),
    ],
)
def test_what_other_directories_may_say(
    tmp_path: Path, family: str, config: dict[str, Any], message: str
) -> None:
    gguf = write_tiny_llama(tmp_path / "m.gguf", kind="F32")
    directory = write_directory(tmp_path / "d", gguf, **{"model_type": family, **config})
    with pytest.raises(CheckpointError, match=message):
        describe(open_checkpoint(directory))


@pytest.mark.parametrize("key", ["attention.max_alibi_bias", "attention.clamp_kqv"])
def test_numbers_of_mpt(tmp_path: Path, key: str) -> None:
    checkpoint = open_checkpoint(write_tiny_older(tmp_path / "m.gguf", "mpt"))
    bad = replace(checkpoint, metadata={**checkpoint.metadata, f"mpt.{key}": -1.0})
    with pytest.raises(CheckpointError, match=f"'mpt.{key}' .* positive number"):
        describe(bad)
    learned = {**checkpoint.tensors, "position_embd.weight": checkpoint.tensors["token_embd.weight"]}
    with pytest.raises(CheckpointError, match=r"'position_embd\.weight', which is not supported"):
        describe(replace(checkpoint, tensors=learned))

"""gpt-oss against `transformers`: a GGUF file written as converters do, and a directory in MXFP4."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

pytest.importorskip("torch", reason="the parity suite needs torch; run it with: make parity")
pytest.importorskip("transformers", reason="the parity suite needs transformers; run it with: make parity")

import torch
import transformers
from test_decoder_families_parity import VOCAB, logits_of, saved
from tiny_gpt_oss import write_gpt_oss_directory, write_tiny_gpt_oss
from tiny_models import SMALLEST_VOCAB, TinyShape, add_hyperparameters, add_tokenizer

from llm_serving.checkpoints import Checkpoint, open_checkpoint

pytestmark = pytest.mark.parity

# Of none of these tokens two experts' logits are so close that rounding keys and values chooses another one.
IDS = {vocab: np.random.default_rng(1).integers(0, vocab, 90).tolist() for vocab in (SMALLEST_VOCAB, VOCAB)}
PACKED = {"kind": "F32", "kinds": dict.fromkeys(("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"), "MXFP4")}


def assert_same(checkpoint: Checkpoint, model: Any, ids: list[int]) -> None:
    with torch.inference_mode():
        expected = model(torch.tensor([ids]), use_cache=False).logits[0].numpy()
    ours = logits_of(checkpoint, ids)
    assert np.abs(expected).max() > 1, "a model that says something"
    np.testing.assert_allclose(ours, expected, atol=3e-3 * np.abs(expected).max())
    assert (ours.argmax(1) == expected.argmax(1)).mean() > 0.98


def converted(model: Any, path: Path) -> Checkpoint:
    """The model as a GGUF file, its tensors by the names that the `gguf` package knows for them."""
    config, names = model.config, gguf.get_tensor_name_map(gguf.MODEL_ARCH.GPT_OSS, 3)
    writer = gguf.GGUFWriter(path, "gpt-oss")
    shape = TinyShape(
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        ffn=config.intermediate_size,
        context=config.max_position_embeddings,
        rope_base=config.rope_parameters["rope_theta"],
        experts=config.num_local_experts,
        used=config.num_experts_per_tok,
        vocab=VOCAB,
    )
    add_hyperparameters(writer, shape)
    writer.add_sliding_window(config.sliding_window)
    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    writer.add_rope_scaling_factor(config.rope_parameters["factor"])
    writer.add_rope_scaling_orig_ctx_len(config.rope_parameters["original_max_position_embeddings"])
    writer.add_rope_scaling_yarn_beta_fast(32.0)
    writer.add_rope_scaling_yarn_beta_slow(1.0)
    add_tokenizer(writer, VOCAB)
    for name, values in model.state_dict().items():
        for own, rows in parts(name, values.numpy()):
            stem, ending = own.rsplit(".", 1)
            writer.add_tensor(f"{names.get_name(stem)}.{ending}", np.ascontiguousarray(rows))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return open_checkpoint(path)


def parts(name: str, values: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Gates apart from what they open, matrices as outputs x inputs, names with `.weight` or `.bias`."""
    if name.endswith("sinks"):
        return [(f"{name}.weight", values)]
    if ".experts." not in name:
        return [(name, values)]
    stem, ending = (name.removesuffix("_bias"), "bias") if name.endswith("_bias") else (name, "weight")
    rows = values if ending == "bias" else values.swapaxes(1, 2)
    if stem.endswith("down_proj"):
        return [(f"{stem}.{ending}", rows)]
    gate, up = (stem.replace("gate_up", part) for part in ("gate", "up"))
    return [(f"{gate}.{ending}", rows[:, 0::2]), (f"{up}.{ending}", rows[:, 1::2])]


def test_a_gguf_file(tmp_path: Path) -> None:
    model, directory = saved(tmp_path / "d", "gpt_oss")
    checkpoint = converted(model, tmp_path / "m.gguf")
    assert_same(checkpoint, model, IDS[VOCAB])
    np.testing.assert_array_equal(*(logits_of(each, IDS[VOCAB]) for each in (checkpoint, directory)))


def test_a_directory_in_mxfp4(tmp_path: Path) -> None:
    """As OpenAI's; transformers makes floats of it."""
    gguf_path = write_tiny_gpt_oss(tmp_path / "m.gguf", **PACKED)
    packing = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"]}
    path = write_gpt_oss_directory(tmp_path / "d", gguf_path, quantization_config=packing)
    assert b"model.layers.1.mlp.experts.down_proj_blocks" in (path / "model.safetensors").read_bytes()
    model = transformers.AutoModelForCausalLM.from_pretrained(
        path,
        dtype=torch.float32,
        attn_implementation="eager",
        quantization_config=transformers.Mxfp4Config(dequantize=True),
    ).eval()
    assert_same(open_checkpoint(path), model, IDS[SMALLEST_VOCAB])

"""Families that are llama but for names: the same numbers give the same bits."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_decoder_directories import write_directory
from tiny_encoders import write_json, write_safetensors
from tiny_models import SMALLEST_VOCAB, write_tiny_hunyuan, write_tiny_llama

from llm_serving.architectures import describe
from llm_serving.checkpoints import Checkpoint, Tensor, dequantize, open_checkpoint
from llm_serving.errors import CheckpointError
from llm_serving.native import ops

IDS = np.random.default_rng(2).integers(0, SMALLEST_VOCAB, 40).tolist()
EXAONE = {
    "model.embed_tokens": "transformer.wte",
    "model.norm": "transformer.ln_f",
    "model.layers": "transformer.h",
    "input_layernorm": "ln_1",
    "post_attention_layernorm": "ln_2",
    "self_attn": "attn.attention",
    "o_proj": "out_proj",
    "gate_proj": "c_fc_0",
    "up_proj": "c_fc_1",
    "down_proj": "c_proj",
}
INTERNLM2 = {
    "embed_tokens": "tok_embeddings",
    "lm_head": "output",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.up_proj": "feed_forward.w3",
    "mlp.down_proj": "feed_forward.w2",
}


def renamed(llama: Checkpoint, family: str, **more: Any) -> Checkpoint:
    """A GGUF file of llama as one of another family."""
    own = {key.replace("llama.", f"{family}."): value for key, value in llama.metadata.items()}
    added = {f"{family}.{key}": value for key, value in more.items()}
    return replace(llama, architecture=family, metadata={**own, **added})


def rewrite(directory: Path, names: dict[str, str], **config: Any) -> Checkpoint:
    """A directory of llama with other names of tensors; queries, keys and values in one if these are not."""
    tensors = {}
    for name, tensor in open_checkpoint(directory).tensors.items():
        for old, new in names.items():
            name = name.replace(old, new)
        tensors[name] = dequantize(tensor)
    old = json.loads((directory / "config.json").read_text())
    for i in range(old["num_hidden_layers"] if names is INTERNLM2 else 0):
        parts = [tensors.pop(f"model.layers.{i}.self_attn.{part}_proj.weight") for part in "qkv"]
        grouped = [part.reshape(old["num_key_value_heads"], -1, old["hidden_size"]) for part in parts]
        rows = np.concatenate(grouped, axis=1).reshape(-1, old["hidden_size"])
        tensors[f"model.layers.{i}.attention.wqkv.weight"] = rows
    write_safetensors(directory / "model.safetensors", tensors)
    write_json(directory / "config.json", {**old, **config})
    return open_checkpoint(directory)


@pytest.mark.parametrize("family", ["baichuan", "internlm2", "nanbeige"])
def test_files(tmp_path: Path, make_driver, family: str) -> None:
    llama = open_checkpoint(write_tiny_llama(tmp_path / "m.gguf", kind="Q4_K", hidden=256, ffn=256))
    expected = make_driver(llama).logits(IDS)
    np.testing.assert_array_equal(make_driver(renamed(llama, family)).logits(IDS), expected)


@pytest.mark.parametrize("quantization", ["auto", "f32"])
@pytest.mark.parametrize(
    ("family", "names", "config"),
    [
        ("exaone", EXAONE, {"num_layers": 2, "layer_norm_epsilon": 1e-5, "activation_function": "silu"}),
        ("internlm2", INTERNLM2, {"bias": False, "rope_scaling": {"type": "dynamic", "factor": 2.0}}),
    ],
)
def test_directories(
    tmp_path: Path, make_driver, family: str, names: dict[str, str], config: dict[str, Any], quantization: str
) -> None:
    """Dynamic scaling begins behind the context."""
    gguf = write_tiny_llama(tmp_path / "m.gguf", kind="F32", heads=4, kv_heads=2, tied=False)
    ours = rewrite(write_directory(tmp_path / "d", gguf), names, model_type=family, **config)
    expected = make_driver(open_checkpoint(gguf), quantization=quantization).logits(IDS)
    np.testing.assert_array_equal(make_driver(ours, quantization=quantization).logits(IDS), expected)


def test_bitnet_norms_what_attention_and_gates_give(tmp_path: Path, make_driver) -> None:
    """A file of BitNet, in pieces as at once. What norms divide by does not matter to it."""
    llama = open_checkpoint(write_tiny_llama(tmp_path / "m.gguf", kind="TQ2_0", hidden=256, ffn=256))
    rng = np.random.default_rng(5)
    norms = {
        name: Tensor(name, "F32", (256,), rng.uniform(0.5, 2, 256).astype(np.float32).view(np.uint8))
        for name in (f"blk.{i}.{part}_sub_norm.weight" for i in range(2) for part in ("attn", "ffn"))
    }
    bitnet = renamed(replace(llama, tensors={**llama.tensors, **norms}), "bitnet")
    expected = make_driver(bitnet).logits(IDS)
    np.testing.assert_array_equal(make_driver(bitnet).logits(IDS, chunk=7), expected)
    up = {name: _doubled(tensor) for name, tensor in bitnet.tensors.items() if ".ffn_up." in name}
    larger = make_driver(replace(bitnet, tensors={**bitnet.tensors, **up}), quantization="f32").logits(IDS)
    exact = make_driver(bitnet, quantization="f32").logits(IDS)
    np.testing.assert_allclose(larger, exact, atol=1e-3 * np.ptp(exact))
    apart = Tensor("blk.0.attn_q.scale", "F32", (1,), np.ones(1, np.float32).view(np.uint8))
    with pytest.raises(CheckpointError, match=r"'blk\.0\.attn_q\.scale' .* is not read"):
        describe(replace(bitnet, tensors={**bitnet.tensors, apart.name: apart}))


def _doubled(tensor: Tensor) -> Tensor:
    """Blocks of TQ2_0 whose factors, at their ends, are twice as large."""
    blocks = tensor.data.reshape(-1, 66).copy()
    factors = 2 * blocks[:, 64:].copy().view(np.float16)
    blocks[:, 64:] = factors.view(np.uint8)
    return replace(tensor, data=blocks.reshape(-1))


def test_published_keys_of_exaone_are_read(tmp_path: Path) -> None:
    gguf = write_tiny_llama(tmp_path / "m.gguf", kind="F32")
    whole = rewrite(write_directory(tmp_path / "d", gguf), EXAONE, model_type="exaone")
    old = {"num_layers": "num_hidden_layers", "activation_function": "hidden_act"}
    keys = {new: whole.metadata[usual] for new, usual in old.items()}
    others = {key: value for key, value in whole.metadata.items() if key not in old.values()}
    assert describe(replace(whole, metadata={**others, **keys})) == describe(whole)
    with pytest.raises(CheckpointError, match="'hidden_act' .* supported: silu"):
        describe(replace(whole, metadata={**others, **keys, "activation_function": "relu"}))


def test_layers_that_are_gone_through_twice(tmp_path: Path, make_driver) -> None:
    """Without the norm in between that is a llama with each layer twice."""
    llama = open_checkpoint(write_tiny_llama(tmp_path / "m.gguf", kind="Q8_0"))
    twice = {name: tensor for name, tensor in llama.tensors.items() if not name.startswith("blk.")}
    layers = llama.metadata["llama.block_count"]
    for name, tensor in llama.tensors.items():
        if name.startswith("blk."):
            _, index, part = name.split(".", 2)
            twice[f"blk.{index}.{part}"] = twice[f"blk.{int(index) + layers}.{part}"] = tensor
    longer = {**llama.metadata, "llama.block_count": 2 * layers}
    expected = make_driver(replace(llama, metadata=longer, tensors=twice)).logits(IDS)
    looped = renamed(llama, "nanbeige", num_loops=2, skip_loop_final_norm=True)
    np.testing.assert_array_equal(make_driver(looped).logits(IDS, chunk=7), expected)


def test_the_norm_between_two_times(tmp_path: Path, make_driver) -> None:
    """Of layers that add nothing, norms are left."""
    llama = open_checkpoint(write_tiny_llama(tmp_path / "m.gguf", kind="F32"))
    silent = {
        name: replace(tensor, data=np.zeros_like(tensor.data))
        if name.endswith(("attn_output.weight", "ffn_down.weight"))
        else tensor
        for name, tensor in llama.tensors.items()
    }
    looped = renamed(replace(llama, tensors=silent), "nanbeige", num_loops=3)
    ours = make_driver(looped, quantization="f32").logits(IDS)
    words, norm = (values_of(llama.tensors[name]) for name in ("token_embd.weight", "output_norm.weight"))
    rows = words[IDS]
    for _ in range(3):
        rows = rows / np.sqrt((rows**2).mean(1, keepdims=True) + 1e-5) * norm
    np.testing.assert_allclose(ours, rows @ words.T, atol=1e-3 * np.ptp(ours))


@pytest.mark.parametrize("quantization", ["auto", "f32"])
def test_maincoder_is_hunyuan_in_pairs(tmp_path: Path, make_driver, quantization: str) -> None:
    """Norms follow the rotation; rows of queries and keys, and weights of their norms, stand in pairs."""
    hunyuan = open_checkpoint(write_tiny_hunyuan(tmp_path / "m.gguf", kind="F32"))
    dim = hunyuan.hyper("embedding_length") // hunyuan.hyper("attention.head_count")
    tensors = dict(hunyuan.tensors)
    for name, tensor in tensors.items():
        if name.split(".")[-2] in ("attn_q", "attn_k", "attn_q_norm", "attn_k_norm"):
            halves = dequantize(tensor).reshape(-1, 2, dim // 2, *tensor.shape[1:])
            pairs = np.ascontiguousarray(halves.swapaxes(1, 2), np.float32)
            tensors[name] = replace(tensor, data=pairs.reshape(-1).view(np.uint8))
    keys = {key.replace("hunyuan-dense.", "maincoder."): value for key, value in hunyuan.metadata.items()}
    maincoder = replace(hunyuan, architecture="maincoder", metadata=keys, tensors=tensors)
    ours, expected = (
        make_driver(each, quantization=quantization).logits(IDS) for each in (maincoder, hunyuan)
    )
    np.testing.assert_array_equal(ours, expected)


def test_chatglm_has_inputs_and_gates_in_one(tmp_path: Path, make_driver) -> None:
    """Rotary pairs within the one matrix stand as llama's do."""
    llama = open_checkpoint(write_tiny_llama(tmp_path / "m.gguf", kind="Q4_K", hidden=256, ffn=256))
    tensors = dict(llama.tensors)
    for i in range(llama.hyper("block_count")):
        for whole, parts in (
            ("attn_qkv", ("attn_q", "attn_k", "attn_v")),
            ("ffn_up", ("ffn_gate", "ffn_up")),
        ):
            found = [tensors.pop(f"blk.{i}.{part}.weight") for part in parts]
            rows = sum(tensor.shape[0] for tensor in found)
            data = np.concatenate([tensor.data for tensor in found])
            name = f"blk.{i}.{whole}.weight"
            tensors[name] = replace(found[0], name=name, shape=(rows, 256), data=data)
    expected = make_driver(llama).logits(IDS)
    ours = make_driver(renamed(replace(llama, tensors=tensors), "chatglm")).logits(IDS, chunk=7)
    np.testing.assert_array_equal(ours, expected)


def test_orion_is_stablelm_that_rotates_as_a_whole(tmp_path: Path, make_driver) -> None:
    llama = open_checkpoint(write_tiny_llama(tmp_path / "m.gguf", kind="F32", tied=False))
    tensors = dict(llama.tensors)
    for name, tensor in llama.tensors.items():
        if "norm" in name:
            bias = name.replace("weight", "bias")
            tensors[bias] = replace(tensor, name=bias)
    ours, expected = (
        make_driver(
            renamed(replace(llama, tensors=tensors), family, **{"attention.layer_norm_epsilon": 1e-5})
        ).logits(IDS)
        for family in ("orion", "stablelm")
    )
    np.testing.assert_array_equal(ours, expected)


def test_scores_of_the_large_baichuan_fall_with_the_distance(tmp_path: Path) -> None:
    llama = open_checkpoint(write_tiny_llama(tmp_path / "m.gguf", kind="F32", layers=40))
    for kept, falling in ((40, ops.LinearBias(4)), (39, None)):
        plan = describe(renamed(llama, "baichuan", block_count=kept))
        attention = [each for each in plan.operations if isinstance(each, ops.Attention)]
        rotations = {each.rope for each in plan.operations if isinstance(each, ops.RopeStore)}
        assert [each.falling for each in attention] == [falling] * kept
        assert rotations == ({plan.rope.still} if falling else {None})


def values_of(tensor: Tensor) -> np.ndarray:
    return dequantize(tensor).astype(np.float64)


@pytest.mark.parametrize(
    ("family", "keys", "message"),
    [
        ("nanbeige", {"num_loops": 65}, "'nanbeige.num_loops' .* up to 64"),
        ("nanbeige", {"num_loops": 0}, "'nanbeige.num_loops' .* positive integer"),
    ],
)
def test_what_is_not_run_is_named(tmp_path: Path, family: str, keys: dict[str, Any], message: str) -> None:
    llama = open_checkpoint(write_tiny_llama(tmp_path / "m.gguf", kind="F32", layers=5))
    with pytest.raises(CheckpointError, match=message):
        describe(renamed(llama, family, **keys))

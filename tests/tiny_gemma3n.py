"""Tiny random models of the gemma3n family: a GGUF file, and a directory with the same numbers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import gguf
import numpy as np
from tiny_decoder_directories import write_tokenizer
from tiny_encoders import write_json, write_safetensors
from tiny_gemma4 import GLOBAL, LOCAL, PARTS, TOP, Gemma4Shape, Tensors
from tiny_models import add_tokenizer

from llm_serving.checkpoints import Checkpoint, dequantize, open_checkpoint

SHARE = 0.75  # of gates that are closed, were they normally distributed
CUT = NormalDist().inv_cdf(SHARE)  # the same in deviations
_PARTS = PARTS | {
    "altup_router.weight": "altup.modality_router.weight",
    "altup_router_norm.weight": "altup.router_norm.weight",
    "altup_predict_coef.weight": "altup.prediction_coefs.weight",
    "altup_correct_coef.weight": "altup.correction_coefs.weight",
    "altup_correct_scale.weight": "altup.correct_output_scale",
    "laurel_l.weight": "laurel.linear_left.weight",
    "laurel_r.weight": "laurel.linear_right.weight",
    "laurel_post_norm.weight": "laurel.post_laurel_norm.weight",
}
_STACKED = {
    "altup_proj.weight": "altup_projections",
    "altup_unembd_proj.weight": "altup_unembed_projections",
}


@dataclass(frozen=True)
class Gemma3nShape(Gemma4Shape):
    """Heads are alike in all layers; the first `sparse` have sparse gates."""

    inputs: int = 32
    head_dims: tuple[int, int] = (16, 16)
    kv_heads: tuple[int, int] = (2, 2)
    streams: int = 4
    rank: int = 32
    sparse: int = 2

    def ffn_of(self, layer: int) -> int:
        return self.ffn


def write_tiny_gemma3n(path: Path, window: int = 32, **shape: Any) -> Path:
    """Write a model; keywords are Gemma3nShape's. Returns `path`."""
    shared = 3 if shape.get("layers", 7) > 5 else 0
    own = Gemma3nShape(**{"shared": shared, "window": window, **shape})
    writer = gguf.GGUFWriter(path, "gemma3n")
    writer.add_context_length(own.context)
    writer.add_embedding_length(own.hidden)
    writer.add_block_count(own.layers)
    writer.add_feed_forward_length([own.ffn] * own.layers)
    writer.add_head_count(own.heads)
    writer.add_head_count_kv(own.kv_heads[0])
    writer.add_key_length(own.head_dims[0])
    writer.add_value_length(own.head_dims[0])
    writer.add_sliding_window(own.window)
    writer.add_sliding_window_pattern([not own.is_global(i) for i in range(own.layers)])
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1e6)
    writer.add_float32("gemma3n.final_logit_softcapping", 9.0)
    writer.add_uint32("gemma3n.altup.active_idx", 0)
    writer.add_uint32("gemma3n.altup.num_inputs", own.streams)
    writer.add_uint32("gemma3n.embedding_length_per_layer_input", own.inputs)
    writer.add_uint32("gemma3n.attention.shared_kv_layers", own.shared)
    cuts = [CUT] * own.sparse + [-np.inf] * (own.layers - own.sparse)
    writer.add_array("gemma3n.activation_sparsity_scale", cuts)
    add_tokenizer(writer, own.vocab, own.last_tokens)
    for name, values, kind in _Tensors(own).all():
        writer.add_tensor(name, values, raw_dtype=gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


class _Tensors(Tensors):
    shape: Gemma3nShape

    def all(self) -> list[tuple[str, np.ndarray, str]]:
        hidden, others = self.shape.hidden, self.shape.streams - 1
        super().all()
        self.out = [tensor for tensor in self.out if not tensor[0].startswith("rope_freqs")]
        for name in _STACKED:
            self.matrix(name.removesuffix(".weight"), hidden, hidden, experts=others)
        return self.out

    def layer(self, i: int, own: str) -> None:
        hidden, streams = self.shape.hidden, self.shape.streams
        super().layer(i, own)
        self.out = [tensor for tensor in self.out if "layer_output_scale" not in tensor[0]]
        self.matrix(f"{own}laurel_l", self.shape.rank, hidden)
        self.matrix(f"{own}laurel_r", hidden, self.shape.rank)
        self.vector(f"{own}laurel_post_norm.weight", hidden)
        self.vector(f"{own}altup_correct_scale.weight", hidden)
        self.vector(f"{own}altup_router_norm.weight", hidden, hidden)
        for name, rows, cols in (
            ("router", streams, hidden),
            ("predict_coef", streams**2, streams),
            ("correct_coef", streams, streams),
        ):
            values = self.rng.normal(0, cols**-0.5, (rows, cols)).astype(np.float32)
            self.out.append((f"{own}altup_{name}.weight", values, "F32"))


def write_gemma3n_directory(directory: Path, path: Path, **config: Any) -> Path:
    """The model of such a GGUF file as a directory; keywords go into its config.json."""
    checkpoint = open_checkpoint(path)
    tensors: dict[str, np.ndarray] = {}
    for name, tensor in checkpoint.tensors.items():
        values = dequantize(tensor)
        if name in _STACKED:
            tensors |= {f"model.{_STACKED[name]}.{j}.weight": matrix for j, matrix in enumerate(values)}
        elif name.startswith("blk."):
            _, index, part = name.split(".", 2)
            tensors[f"model.layers.{index}.{_PARTS[part]}"] = values
        else:
            tensors[f"{TOP[name.removesuffix('.weight')]}.weight"] = values
    write_safetensors(directory / "model.safetensors", tensors)
    write_json(directory / "config.json", {**_config(checkpoint), **config})
    write_tokenizer(directory, checkpoint.tensor("token_embd.weight").shape[0])
    return directory


def _config(checkpoint: Checkpoint) -> dict[str, Any]:
    hyper, vocab = checkpoint.hyper, checkpoint.tensor("token_embd.weight").shape[0]
    cuts = hyper("activation_sparsity_scale")
    return {
        "model_type": "gemma3n_text",
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": hyper("embedding_length"),
        "intermediate_size": [int(width) for width in hyper("feed_forward_length")],
        "num_hidden_layers": hyper("block_count"),
        "num_attention_heads": hyper("attention.head_count"),
        "num_key_value_heads": hyper("attention.head_count_kv"),
        "head_dim": hyper("attention.key_length"),
        "layer_types": [LOCAL if local else GLOBAL for local in hyper("attention.sliding_window_pattern")],
        "num_kv_shared_layers": hyper("attention.shared_kv_layers"),
        "hidden_size_per_layer_input": hyper("embedding_length_per_layer_input"),
        "activation_sparsity_pattern": [SHARE if cut > -np.inf else 0.0 for cut in cuts],
        "altup_num_inputs": hyper("altup.num_inputs"),
        "sliding_window": hyper("attention.sliding_window"),
        "final_logit_softcapping": float(hyper("final_logit_softcapping")),
        "rms_norm_eps": float(hyper("attention.layer_norm_rms_epsilon")),
        "max_position_embeddings": hyper("context_length"),
        "vocab_size": vocab,
        "vocab_size_per_layer_input": vocab,
    }

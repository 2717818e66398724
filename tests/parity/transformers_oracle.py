"""The same checkpoint as a float32 `transformers` model: the oracle of the parity suite."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import transformers
from numpy_reference import decode
from tiny_decoder_directories import LAYER_PARTS, TOP_PARTS

from llm_serving.checkpoints.checkpoint import Checkpoint

FAMILIES = {
    "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
    "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM),
    "qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM),
}


class TransformersOracle:
    """Logits by `transformers`, from the dequantised weights, in float32.

    `rope_scaling` is what the original config.json would say; it replaces the file's `rope_freqs.weight`.
    """

    def __init__(self, checkpoint: Checkpoint, rope_scaling: dict[str, Any] | None = None) -> None:
        config_class, model_class = FAMILIES[checkpoint.architecture]
        tied = "output.weight" not in checkpoint.tensors
        hidden = checkpoint.hyper("embedding_length")
        heads = checkpoint.hyper("attention.head_count")
        config = config_class(
            vocab_size=checkpoint.tensors["token_embd.weight"].shape[0],
            hidden_size=hidden,
            intermediate_size=checkpoint.hyper("feed_forward_length"),
            num_hidden_layers=checkpoint.hyper("block_count"),
            num_attention_heads=heads,
            num_key_value_heads=checkpoint.hyper("attention.head_count_kv"),
            head_dim=checkpoint.hyper("attention.key_length", hidden // heads),
            rms_norm_eps=checkpoint.hyper("attention.layer_norm_rms_epsilon"),
            max_position_embeddings=checkpoint.hyper("context_length"),
            rope_theta=checkpoint.hyper("rope.freq_base"),
            rope_scaling=rope_scaling,
            tie_word_embeddings=tied,
            attn_implementation="eager",
        )
        self.model = model_class(config).eval()
        missing, unexpected = self.model.load_state_dict(state_dict(checkpoint), strict=False)
        assert not unexpected, unexpected
        assert set(missing) <= ({"lm_head.weight"} if tied else set()), missing

    def logits(self, token_ids: np.ndarray | list[int]) -> np.ndarray:
        """Logits after each token of one sequence, float32 [n, vocab]."""
        ids = torch.tensor([list(map(int, token_ids))])
        with torch.inference_mode():
            return self.model(ids, use_cache=False).logits[0].float().numpy()


def state_dict(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """The checkpoint's weights under the names and in the row order of `transformers`."""
    heads = checkpoint.hyper("attention.head_count")
    kv_heads = checkpoint.hyper("attention.head_count_kv")
    weights = {}
    for name, tensor in checkpoint.tensors.items():
        if name == "rope_freqs.weight":
            continue
        stem, suffix = name.rsplit(".", 1)
        values = decode(tensor)
        if stem in TOP_PARTS:
            target = TOP_PARTS[stem]
        else:
            _, index, part = stem.split(".")
            target = f"model.layers.{index}.{LAYER_PARTS[part]}"
            if checkpoint.architecture == "llama" and part in ("attn_q", "attn_k"):
                values = halves_from_pairs(values, heads if part == "attn_q" else kv_heads)
        weights[f"{target}.{suffix}"] = torch.from_numpy(np.array(values))
    return weights


def halves_from_pairs(rows: np.ndarray, heads: int) -> np.ndarray:
    """Undo GGUF's permutation of q and k rows: rotated pairs (2i, 2i + 1) become (i, i + d / 2)."""
    paired = rows.reshape(heads, -1, 2, *rows.shape[1:])
    return paired.swapaxes(1, 2).reshape(rows.shape)

"""Models of `deepseek2` in plain numpy, float64, with keys and values of every head: nothing is absorbed."""

from __future__ import annotations

import numpy as np
from numpy_reference import decode, rotate

from llm_serving.checkpoints import Checkpoint
from llm_serving.native.rope import yarn_factors


class LatentReference:
    """One model of a GGUF file that has heads' keys and values in two tensors; calls start at position 0."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.weights = {name: decode(t).astype(np.float64) for name, t in checkpoint.tensors.items()}
        self.hyper = checkpoint.hyper
        self.heads = int(self.hyper("attention.head_count"))
        self.latent = int(self.hyper("attention.kv_lora_rank"))
        self.rotated = int(self.hyper("rope.dimension_count"))
        self.query = int(self.hyper("attention.key_length_mla"))

    def logits(self, ids: np.ndarray) -> np.ndarray:
        """float64 [tokens, vocabulary]."""
        w = self.weights
        x = w["token_embd.weight"][ids]
        for i in range(int(self.hyper("block_count"))):
            blk = f"blk.{i}"
            x = x + self._attention(self._norm(x, f"{blk}.attn_norm"), blk)
            x = x + self._feed_forward(self._norm(x, f"{blk}.ffn_norm"), blk)
        return np.asarray(self._norm(x, "output_norm") @ w["output.weight"].T)

    def _norm(self, x: np.ndarray, name: str) -> np.ndarray:
        epsilon = self.hyper("attention.layer_norm_rms_epsilon")
        return np.asarray(
            x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon) * self.weights[f"{name}.weight"]
        )

    def _angles(self, count: int) -> tuple[np.ndarray, np.ndarray, float]:
        """Cosines and sines [tokens, rotated / 2], and what scores are multiplied with."""
        frequencies = 10000.0 ** (-np.arange(0, self.rotated, 2) / self.rotated)
        scale = self.query**-0.5
        if self.hyper("rope.scaling.type") == "yarn":
            factor = self.hyper("rope.scaling.factor")
            length = self.hyper("rope.scaling.original_context_length")
            frequencies /= yarn_factors(10000.0, self.rotated, factor, length)
            share = self.hyper("rope.scaling.yarn_log_multiplier")  # a tenth of it
            scale *= (1 + share * np.log(factor)) ** 2
        angles = np.arange(count)[:, None] * frequencies
        return np.cos(angles), np.sin(angles), scale

    def _attention(self, x: np.ndarray, blk: str) -> np.ndarray:
        w, n = self.weights, len(x)
        cos, sin, scale = self._angles(n)
        if f"{blk}.attn_q_a.weight" in w:
            q = (
                self._norm(x @ w[f"{blk}.attn_q_a.weight"].T, f"{blk}.attn_q_a_norm")
                @ w[f"{blk}.attn_q_b.weight"].T
            )
        else:
            q = x @ w[f"{blk}.attn_q.weight"].T
        q = q.reshape(n, self.heads, self.query)
        plain = self.query - self.rotated
        q[..., plain:] = rotate(q[..., plain:], cos, sin, interleaved=True)
        both = x @ w[f"{blk}.attn_kv_a_mqa.weight"].T
        shared = rotate(both[:, None, self.latent :], cos, sin, interleaved=True)
        latent = self._norm(both[:, : self.latent], f"{blk}.attn_kv_a_norm")
        keys = np.einsum("tl,hlp->thp", latent, w[f"{blk}.attn_k_b.weight"])
        values = np.einsum("tl,hvl->thv", latent, w[f"{blk}.attn_v_b.weight"])
        keys = np.concatenate([keys, np.repeat(shared, self.heads, axis=1)], axis=-1)
        scores = np.einsum("thd,shd->hts", q, keys) * scale
        scores = np.where(np.tri(n, dtype=bool), scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        attended = np.einsum("hts,shv->thv", weights, values).reshape(n, -1)
        return np.asarray(attended @ w[f"{blk}.attn_output.weight"].T)

    def _gated(self, x: np.ndarray, blk: str, which: str, e: int | None = None) -> np.ndarray:
        gate, up, down = (
            matrix if e is None else matrix[e]
            for matrix in (self.weights[f"{blk}.ffn_{part}{which}.weight"] for part in ("gate", "up", "down"))
        )
        opened = x @ gate.T
        return np.asarray((opened / (1 + np.exp(-opened)) * (x @ up.T)) @ down.T)

    def _feed_forward(self, x: np.ndarray, blk: str) -> np.ndarray:
        if f"{blk}.ffn_gate_inp.weight" not in self.weights:
            return self._gated(x, blk, "")
        out = self._gated(x, blk, "_shexp")
        for t, row in enumerate(x @ self.weights[f"{blk}.ffn_gate_inp.weight"].T):
            for e, weight in self._chosen(row, self.weights.get(f"{blk}.exp_probs_b.bias")):
                out[t] += weight * self._gated(x[t], blk, "_exps", e)
        return out

    def _chosen(self, logits: np.ndarray, correction: np.ndarray | None) -> list[tuple[int, float]]:
        is_sigmoid = self.hyper("expert_gating_func") == 2
        scores = np.exp(logits - logits.max())
        scores = 1 / (1 + np.exp(-logits)) if is_sigmoid else scores / scores.sum()
        corrected = scores + (0 if correction is None else correction)
        groups = corrected.reshape(self.hyper("expert_group_count"), -1)
        best = np.sort(groups, axis=1)[:, -2 if is_sigmoid else -1 :].sum(1)
        allowed = np.argsort(-best)[: self.hyper("expert_group_used_count")]
        masked = np.full_like(groups, -np.inf)
        masked[allowed] = groups[allowed]
        chosen = np.argsort(-masked.reshape(-1))[: self.hyper("expert_used_count")]
        weights = scores[chosen]
        if self.hyper("expert_weights_norm"):
            weights = weights / weights.sum()
        return list(
            zip(chosen.tolist(), (weights * self.hyper("expert_weights_scale")).tolist(), strict=True)
        )

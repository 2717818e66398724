"""What makes scores and probabilities of logits."""

from __future__ import annotations

from typing import Literal

import numpy as np

Activation = Literal["identity", "sigmoid", "softmax", "tanh"]


def activate(logits: np.ndarray, activation: Activation) -> np.ndarray:
    """float64 of any shape → the same; softmax over the last axis. No exponential overflows."""
    values = logits
    if activation == "tanh":
        values = np.tanh(logits)
    elif activation == "sigmoid":
        small = np.exp(-np.abs(logits))
        values = np.where(logits >= 0, 1 / (1 + small), small / (1 + small))
    elif activation == "softmax":
        shares = np.exp(logits - logits.max(-1, keepdims=True))
        values = shares / shares.sum(-1, keepdims=True)
    return values

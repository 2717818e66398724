"""Attention of DeBERTa as data: contents meet contents and positions (He et al. 2021, arXiv:2006.03654)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llm_serving.checkpoints import Checkpoint, dequantize


@dataclass(frozen=True, slots=True)
class Positions:
    """Rows that stand for distances: tensor `table` [2 * span, hidden], normed by `norm` if it is there.

    With `buckets` distances beyond half of the span share rows, in logarithmic steps up to `most_distance`.
    """

    table: str
    span: int
    buckets: bool
    most_distance: int
    norm: str | None  # tensor's name without `.weight` and `.bias`
    epsilon: float


@dataclass(frozen=True, slots=True)
class DisentangledAttention:
    """target = attention inside each sequence; `source` = [queries | keys | values].

    Scores are of queries and keys, of queries and positions as keys (`key`), of keys and positions as queries
    (`query`), all times `scale`. Both are names of linear layers without `.weight` and `.bias`.
    """

    source: str
    target: str
    heads: int
    scale: float
    positions: Positions
    key: str | None
    query: str | None


def rows_of_distances(positions: Positions, context: int) -> list[int]:
    """[2 * context - 1]: the row for each distance of a query from a key, from -(context - 1) on."""
    distances = np.arange(1 - context, context)
    rows = distances
    if positions.buckets:
        half = positions.span // 2
        far = np.maximum(np.abs(distances), half).astype(np.float32) / np.float32(half)
        widest = np.log(np.float32((positions.most_distance - 1) / half))
        steps = np.ceil(np.log(far) / widest * np.float32(half - 1)).astype(np.int64) + half
        rows = np.where(np.abs(distances) <= half, distances, np.sign(distances) * steps)
    found: list[int] = np.clip(rows + positions.span, 0, 2 * positions.span - 1).tolist()
    return found


def projected(checkpoint: Checkpoint, positions: Positions, linear: str) -> np.ndarray:
    """float32 [2 * span, hidden]: positions behind a linear layer.

    In double precision, where the order in which BLAS adds hardly shows.
    """
    table = dequantize(checkpoint.tensor(positions.table)).astype(np.float64)
    if positions.norm is not None:
        gain = dequantize(checkpoint.tensor(f"{positions.norm}.weight"))
        shift = dequantize(checkpoint.tensor(f"{positions.norm}.bias"))
        centred = table - table.mean(1, keepdims=True)
        table = centred / np.sqrt(table.var(1, keepdims=True) + positions.epsilon) * gain + shift
    rows: np.ndarray = table @ dequantize(checkpoint.tensor(f"{linear}.weight")).astype(np.float64).T
    if f"{linear}.bias" in checkpoint.tensors:
        rows = rows + dequantize(checkpoint.tensor(f"{linear}.bias"))
    return rows.astype(np.float32)

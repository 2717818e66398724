"""What the fake model keeps of tokens, in place of keys and values: it depends on all they would."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np

from llm_serving.engine.protocol import Step

GIVEN_WIDTH = 8  # of rows in place of embeddings


def written(step: Step) -> np.ndarray:
    """int32: the token ids; for given rows, negative numbers that depend on all of a row, or of its span.

    The first token of a sequence with an adapter is another one.
    """
    written: np.ndarray = step.token_ids.copy()
    if step.adapters is not None:
        starts = step.query_starts[:-1]
        written[starts] -= np.where(step.positions[starts], 0, step.adapters + 1) << 20
    if step.given is None or step.given_rows is None:
        return written
    if step.given.dtype != np.float32 or step.given.shape != (len(step.given_rows), GIVEN_WIDTH):
        raise RuntimeError("given rows are not of the agreed type and shape")
    if (np.diff(step.given_rows) < 1).any() or not 0 <= step.given_rows[0] <= step.given_rows[-1] < len(
        step.token_ids
    ):
        raise RuntimeError("given rows are not for tokens of the step, in order")
    written[step.given_rows] = [-2 - (digest(row) >> 34) for row in step.given]
    if step.seen is not None:
        ahead = step.seen - 1 - step.positions
        if (ahead < 0).any() or (ahead[np.setdiff1d(np.arange(len(ahead)), step.given_rows)] > 0).any():
            raise RuntimeError("a token that stands for no picture sees what comes")
        begins = (np.diff(step.seen, prepend=-1) != 0) | (np.diff(step.positions, prepend=-2) != 1)
        for first in np.flatnonzero((ahead > 0) & begins):
            span = slice(first, first + ahead[first] + 1)
            if len(written[span]) <= ahead[first] or (step.seen[span] != step.seen[first]).any():
                raise RuntimeError("a step cuts a span")
            written[span] -= digest(written[span]) >> 34
    return written


def digest(ids: np.ndarray) -> int:
    """64 bits that depend on every element."""
    return int.from_bytes(blake2b(ids.tobytes(), digest_size=8).digest(), "little")

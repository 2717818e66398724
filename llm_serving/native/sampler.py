"""Sampler in C++: equal to `NumpySampler` token for token, rows in parallel."""

from __future__ import annotations

from typing import Any

import numpy as np

from llm_serving.engine.protocol import SamplingRow
from llm_serving.engine.request import TokenLogprobs
from llm_serving.engine.sampler import from_logits
from llm_serving.native.core import load_core

_MASK = (1 << 64) - 1


class NativeSampler:
    """Owns `threads - 1` worker threads, asleep between calls. One engine thread calls it.

    Raises: ExtensionMissing; ValueError for an unknown ISA.
    """

    def __init__(self, threads: int = 1, isa: str = "auto") -> None:
        self._core: Any = load_core().RowSampler(threads=threads, isa=isa)

    def sample(self, logits: np.ndarray, rows: list[SamplingRow]) -> list[int]:
        """See `Sampler.sample`. Releases the GIL.

        Raises: ValueError when the logits do not fit the rows, or a penalised id is outside the vocabulary.
        """
        tokens: list[int] = self._core.sample(logits, [_plain(row) for row in rows])
        return tokens

    def logprobs(self, logits: np.ndarray, token_ids: list[int], counts: list[int]) -> list[TokenLogprobs]:
        """See `Sampler.logprobs`. Releases the GIL.

        Raises: ValueError when the logits do not fit the rows, or a token is outside the vocabulary.
        """
        return [from_logits(*facts) for facts in self._core.likeliest(logits, token_ids, counts)]


def _plain(row: SamplingRow) -> tuple[Any, ...]:
    """What `read_row` in bindings_sample.cpp takes. Only ids that a penalty looks at go along."""
    params = row.params
    repeats = params.repetition_penalty != 1.0
    counts = params.presence_penalty != 0.0 or params.frequency_penalty != 0.0
    return (
        params.temperature,
        params.top_k,
        params.top_p,
        params.min_p,
        params.typical_p,
        params.seed & _MASK,
        row.position,
        params.repetition_penalty,
        params.presence_penalty,
        params.frequency_penalty,
        row.prompt_ids if repeats else [],
        row.output_ids if repeats or counts else [],
        params.logit_bias,
    )

"""Log-probabilities of a prompt's own tokens, found while the prompt is computed.

The logits of a token tell of the next one. They depend on the tokens before only, so neither the steps that a
prompt is cut into nor its company change the result.
"""

from __future__ import annotations

from itertools import islice

import numpy as np

from llm_serving.engine.protocol import Sampler
from llm_serving.engine.sequence import Sequence

MOST_ROWS = 64  # of all prompts in a step: a row is as long as the vocabulary, 64 MiB in all for the longest


def score_prompts(sampler: Sampler, scored: list[tuple[Sequence, int]], logits: np.ndarray) -> np.ndarray:
    """Give each sequence what its rows tell of its next prompt tokens; returns the rows before these.

    The last rows of `logits` are theirs, as many for each as `scored` says. They are overwritten.
    """
    token_ids: list[int] = []
    counts: list[int] = []
    for sequence, num_rows in scored:
        first = 1 + len(sequence.prompt_logprobs)
        token_ids += sequence.token_ids[first : first + num_rows]
        counts += [sequence.request.sampling.prompt_logprobs or 0] * num_rows
    num_others = len(logits) - len(token_ids)
    found = iter(sampler.logprobs(logits[num_others:], token_ids, counts))
    for sequence, num_rows in scored:
        sequence.prompt_logprobs.extend(islice(found, num_rows))
    return logits[:num_others]

"""Rows of one picture that see each other all, also those that come: a span.

Their keys and values depend on all of them. So a span is computed in one step, or not begun, and what is
taken over from the prefix cache ends in none. Digests need no more than they have: that of a block names all
rows of a picture, also those behind the block.
"""

from __future__ import annotations

from collections.abc import Sequence

from llm_serving.engine.request import GivenRows


def whole_tokens(spans: Sequence[GivenRows], first: int, count: int, most: int) -> int:
    """How many tokens to compute from `first` on, where `count` are wanted and `most` are possible.

    Up to the span that `count` would cut. Where that is the next thing to compute, all of it, however few are
    wanted: else it would wait for as long as others decode. 0 if it is more than `most`.
    """
    for span in spans:
        if span.start < first + count < span.end:
            if span.start > first:
                return span.start - first
            return span.end - first if span.end - first <= most else 0
    return count


def whole_blocks(spans: Sequence[GivenRows], num_blocks: int, block_size: int) -> int:
    """As many of the first blocks as end in no span."""
    for span in reversed(spans):
        if span.start < num_blocks * block_size < span.end:
            num_blocks = span.start // block_size
    return num_blocks
